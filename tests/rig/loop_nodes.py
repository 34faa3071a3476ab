"""A loop by node expansion, and a list: what follows runs once per model name, and no prompt says with which."""
import comfy.sd
import folder_paths
from comfy_execution.graph_utils import GraphBuilder


class LoopOverModels:
    @classmethod
    def INPUT_TYPES(cls):
        rest = {"conditioning": ("CONDITIONING",), "noise": ("NOISE",), "sampler": ("SAMPLER",),
                "sigmas": ("SIGMAS",), "vae": ("VAE",), "plan": ("LODESTAR_PLAN",), "reference": ("IMAGE",),
                "audio_features": ("AUDIO_ENCODER_OUTPUT",), "filename_prefix": ("STRING", {}),
                "keep_chunks": ("BOOLEAN", {})}
        return {"required": {"names": ("STRING", {}), **rest}}

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "loop", "test", True

    def loop(self, names, conditioning, **rest):
        graph = GraphBuilder()
        for name in names.split():
            model = graph.node("UNETLoader", unet_name=name, weight_dtype="default")
            guider = graph.node("BasicGuider", model=model.out(0), conditioning=conditioning)
            graph.node("LodestarLongTake", guider=guider.out(0), **rest)
        return {"result": (), "expand": graph.finalize()}


class ListOfModels:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"names": ("STRING", {})}}

    RETURN_TYPES, OUTPUT_IS_LIST, FUNCTION, CATEGORY = ("MODEL",), (True,), "load", "test"

    def load(self, names):
        paths = [folder_paths.get_full_path("diffusion_models", name) for name in names.split()]
        return ([comfy.sd.load_diffusion_model(path) for path in paths],)


NODE_CLASS_MAPPINGS = {"LoopOverModels": LoopOverModels, "ListOfModels": ListOfModels}
