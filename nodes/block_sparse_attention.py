"""Block Sparse Attention (LongCat-Video): leaves out the keys that answer least, as its authors refine to 720p."""
from comfy_api.latest import io

from ..backbones import attach, find
from ..backbones.longcat.model import LongCatVideo
from ..techniques.block_sparse import BlockSparseAttention
from ..techniques.sparse_blocks import SparseBlocks
from .input_checks import check_inputs
from .sockets import search_words


class LodestarBlockSparseAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarBlockSparseAttention",
            display_name="Block Sparse Attention",
            category="Lodestar/techniques",
            description="LongCat-Video's attention for 720p: each block of 4x4x4 tokens attends to the few blocks that "
                        "answer it best. At the authors' sparsity a sixteenth of the attention is computed.",
            inputs=[
                io.Model.Input("model", tooltip="LongCat-Video from Load LongCat, with its LoRA where it has one."),
                io.Float.Input("sparsity", default=0.9375, min=0.0, max=0.999, step=0.0001, round=0.0001,
                               tooltip="The share of all blocks that each block leaves out. 0.9375: the authors' own. "
                                       "0: full attention."),
            ],
            outputs=[io.Model.Output(tooltip="For sizes in multiples of 64 pixels, as Refine Take chooses them.")],
            **search_words("bsa", "sparse attention", "720p", "faster", "longcat", "refine"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, sparsity) -> io.NodeOutput:
        base = model.model
        if not isinstance(base, LongCatVideo) or base.diffusion_model.config.audio is not None:
            raise ValueError(f"model: got {find(model).name}, wanted LongCat-Video, which was trained with block "
                             "sparse attention; an avatar's reference falls into no block. Remove this node")
        return io.NodeOutput(attach.with_technique(model, BlockSparseAttention(SparseBlocks(sparsity))))
