"""Floor 4: what a user drags. Each node unpacks its inputs, makes one call, and packs the answer."""
from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension

from ..host.live_routes import add_live_routes
from ..host.take_requests import add_routes
from .audio_features import LodestarAudioFeatures
from .backfill import LodestarBackfill
from .blank_prompt import LodestarBlankPrompt
from .block_sparse_attention import LodestarBlockSparseAttention
from .colour_match import LodestarColourMatch
from .compare_takes import LodestarCompareTakes
from .custom_background import LodestarCustomBackground
from .driving_video import LodestarDrivingVideo
from .global_time import LodestarGlobalTime
from .high_low_guider import LodestarHighLowGuider
from .humo_sampler import LodestarHuMoSampler
from .infinitetalk import LodestarInfiniteTalk
from .infinitetalk_sampler import LodestarInfiniteTalkSampler
from .joint_speech import LodestarJointSpeech
from .latent_stitch import LodestarLatentStitch
from .live_take import LodestarLiveTake
from .load_audio_encoder import LodestarLoadAudioEncoder
from .load_cogvideox import LodestarLoadCogVideoX
from .load_longcat import LodestarLoadLongCat
from .load_longcat_lora import LodestarLoadLongCatLora
from .load_omniavatar import LodestarLoadOmniAvatar
from .load_student import LodestarLoadStudent
from .load_wan_lora import LodestarLoadWanLora
from .long_take import LodestarLongTake
from .longcat_schedule import LodestarLongCatSchedule
from .longcat_speech import LodestarLongCatSpeech
from .lookahead_anchor import LodestarLookaheadAnchor
from .make_training_clips import LodestarMakeTrainingClips
from .narrative_keyframes import LodestarNarrativeKeyframe
from .negative_prompt import LodestarNegativePrompt
from .omniavatar_speech import LodestarOmniAvatarSpeech
from .one_chunk import LodestarOneChunk
from .persistent_latents import LodestarPersistentLatents
from .plan_take import LodestarPlanTake
from .preference_pairs import LodestarPreferencePairs
from .reference_picture import LodestarReferencePicture
from .reference_skip import LodestarReferenceSkip
from .refine_take import LodestarRefineTake
from .rolling_window import LodestarRollingWindow
from .sample_person import LodestarSamplePerson
from .sample_video import LodestarSampleVideo
from .speech_guidance import LodestarSpeechGuidance
from .student_schedule import LodestarStudentSchedule
from .style_anchor import LodestarStyleAnchor
from .take_report import LodestarTakeReport
from .temporal_anchor import LodestarTemporalAnchor
from .train_recipe import LodestarTrainRecipe
from .two_speakers import LodestarTwoSpeakers
from .video_reference import LodestarVideoReference


class Lodestar(ComfyExtension):
    async def on_load(self):
        add_routes()

    async def get_node_list(self):
        return [LodestarSamplePerson, LodestarSampleVideo, LodestarDrivingVideo, LodestarPlanTake, LodestarLongTake,
                LodestarOneChunk, LodestarReferencePicture,
                LodestarLookaheadAnchor, LodestarNarrativeKeyframe, LodestarReferenceSkip, LodestarLatentStitch,
                LodestarLoadAudioEncoder, LodestarLoadLongCat, LodestarLoadLongCatLora, LodestarInfiniteTalk,
                LodestarAudioFeatures, LodestarLongCatSpeech, LodestarTwoSpeakers, LodestarBlankPrompt,
                LodestarSpeechGuidance, LodestarLongCatSchedule, LodestarLoadOmniAvatar, LodestarOmniAvatarSpeech,
                LodestarJointSpeech,
                LodestarHighLowGuider, LodestarTakeReport, LodestarCompareTakes, LodestarBlockSparseAttention,
                LodestarColourMatch,
                LodestarLoadCogVideoX, LodestarHuMoSampler, LodestarInfiniteTalkSampler,
                LodestarRollingWindow, LodestarStudentSchedule, LodestarStyleAnchor, LodestarTemporalAnchor,
                LodestarRefineTake, LodestarLiveTake, LodestarNegativePrompt, LodestarGlobalTime, LodestarLoadStudent,
                LodestarPersistentLatents, LodestarLoadWanLora, LodestarVideoReference,
                LodestarCustomBackground, LodestarMakeTrainingClips, LodestarTrainRecipe, LodestarBackfill,
                LodestarPreferencePairs]


async def comfy_entrypoint() -> Lodestar:
    models = Path(__file__).resolve().parent.parent / "models"    # the puppet: a model that comes with the pack
    for folder in ("diffusion_models", "vae"):
        folder_paths.add_model_folder_path(folder, str(models / folder))
    add_routes()
    add_live_routes()
    return Lodestar()
