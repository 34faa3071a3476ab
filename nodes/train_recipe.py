"""Train Recipe: a LoRA of the connected model from a folder of clips, by one of the pack's recipes."""
from comfy_api.latest import io, ui

from ..host.recipe_choice import RECIPES, train_in_output, window_of
from ..host.recipe_training import AUTO, DTYPES
from ..pipelines.training.run import Settings
from .input_checks import check_inputs
from .sockets import CLIPS, LORA_MODEL, LOSS_MAP, search_words


class LodestarTrainRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarTrainRecipe",
            display_name="Train Recipe",
            category="Lodestar/training",
            description="Trains a LoRA of the model, so that it does what a technique asks of it. Cancel at any time: "
                        "what is trained is saved, and queued again it goes on. The LoRA so far is in Load LoRA's "
                        "list, below lodestar_training.",
            inputs=[
                io.Model.Input("model", tooltip="What the LoRA is for, without techniques: the recipe brings its own."),
                CLIPS.Input("clips", tooltip="Of Make Training Clips, with this model and its VAE. Student recipes and "
                                             "preference read what Backfill and Preference Pairs made of them."),
                io.Combo.Input("recipe", options=list(RECIPES), default=next(iter(RECIPES)),
                               tooltip="flexible anchor: for Lookahead Anchor at any distance. stitching: for Latent "
                                       "Stitch. disentangled silence: pauses that move. restorative flow: for "
                                       "Persistent Latents. student regression, then student matching: few steps "
                                       "with Rolling Window. video reference, same scene, then another scene: for "
                                       "Video Reference. preference: more like the person."),
                io.Int.Input("steps", default=1000, min=1, max=1_000_000,
                             tooltip="Of the training in all. More than before goes on where it ended."),
                io.Int.Input("rank", default=32, min=1, max=1024,
                             tooltip="Of the LoRA: how much it can change, and how large its file is."),
                io.Float.Input("rate", default=1e-4, min=1e-7, max=0.5, step=1e-6, round=1e-8,
                               tooltip="How far a step changes the LoRA. Lower where the loss jumps; preference wants "
                                       "1.5e-6."),
                io.Int.Input("seed", default=0, min=0, max=2 ** 31 - 1,
                             tooltip="Which clips, places and noise each step has. The same seed gives the same LoRA."),
                io.String.Input("folder", default="my_lora",
                                tooltip="Name of the run in output/lodestar_training, and of its LoRA in "
                                        "output/loras/lodestar_training. The same name goes on with the same run."),
                io.Int.Input("batch", default=1, min=1, max=1024, optional=True,
                             tooltip="Examples that a step adds up: steadier, and so many times as long. Memory stays "
                                     "the same."),
                io.Combo.Input("dtype", options=[AUTO, *DTYPES], default=AUTO, optional=True,
                               tooltip="What is computed in. auto: bf16 on a graphics card, fp32 on the processor. "
                                       "The LoRA itself is trained in fp32."),
                io.Float.Input("checkpoint_minutes", default=5.0, min=0.1, max=600.0, step=0.1, optional=True,
                               tooltip="How often it is saved. A crash costs no more than this; a cancel nothing."),
                io.Conditioning.Input("positive", optional=True,
                                      tooltip="The prompt of all clips, as the text encoder gives it. Without it a "
                                              "blank one."),
                io.Sampler.Input("window", optional=True,
                                 tooltip="Rolling Window as the student will be used, for the student recipes. Without "
                                         "it AvatarForcing's: blocks of 4 latents, one pass."),
                io.Sigmas.Input("levels", optional=True, tooltip="Student Schedule that belongs to the window."),
                LORA_MODEL.Input("start", optional=True,
                                 tooltip="A LoRA of the same rank to begin with: student regression's, for student "
                                         "matching."),
            ],
            outputs=[LORA_MODEL.Output(display_name="lora", tooltip="For core's Load LoRA Model, Save LoRA Weights."),
                     LOSS_MAP.Output(display_name="loss_map", tooltip="For core's Plot Loss Graph."),
                     io.Int.Output(display_name="steps", tooltip="How many steps the LoRA has been trained for.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **search_words("train lora", "fine-tune", "finetune", "distillation", "dpo", "trainer"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, clips, recipe, steps, rank, rate, seed, folder, batch=1, dtype=AUTO,
                checkpoint_minutes=5.0, positive=None, window=None, levels=None, start=None) -> io.NodeOutput:
        settings = Settings(steps, rank, batch, rate, seed, checkpoint_minutes)
        made = train_in_output(model, recipe, clips, folder, settings, window=window_of(window, levels),
                               positive=positive, dtype=dtype, start=start,
                               node_id=getattr(cls.hidden, "unique_id", None))
        return io.NodeOutput(made.lora, made.loss_map, len(made.losses), ui=ui.PreviewText(str(made)))
