"""How each workflow of workflows/api is laid out as a graph, and the text of its note: read by make_workflows.py.

Hours and minutes are estimates from counted operations (benchmarks/README.md) at the matmul rates of both cards, for
one minute of video at the model's own size; no backticks in notes, which Nodes 2.0 draws unreadably.
"""
from lib.puppet_pages import PUPPET_PAGES
from lib.workflow_page import Column, Folded, Group, Page, minutes, note

WAN_VAE = "vae: wan_2.1_vae.safetensors (0.3 GB)"
UMT5 = "text_encoders: umt5_xxl_fp8_e4m3fn_scaled.safetensors (6.7 GB)"
WAV2VEC = "audio_encoders: wav2vec2_large_english_fp16.safetensors (0.6 GB)"
WHISPER = "audio_encoders: whisper_large_v3_encoder_fp16.safetensors (1.3 GB)"
AVATAR_15 = ("longcat: the folder LongCat-Video-Avatar-1.5/base_model_int8 (16 GB)",
             "loras: LongCat-Video-Avatar-1.5/lora/dmd_lora.safetensors (2.5 GB)")
WAN_21, WAN_22, HUMO, HUNYUAN = (f"https://huggingface.co/Comfy-Org/{name}/resolve/main/split_files/" for name in (
    "Wan_2.1_ComfyUI_repackaged", "Wan_2.2_ComfyUI_Repackaged", "HuMo_ComfyUI", "HunyuanVideo_repackaged"))
DOWNLOADS = {url.rsplit("/", 1)[1]: url for url in (    # by file name, for the frontend's own dialog of missing models
    WAN_22 + "diffusion_models/wan2.2_s2v_14B_fp8_scaled.safetensors",
    WAN_22 + "diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
    WAN_22 + "diffusion_models/wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors",
    WAN_22 + "diffusion_models/wan2.2_animate_14B_bf16.safetensors",
    WAN_21 + "diffusion_models/wan2.1_i2v_480p_14B_fp8_scaled.safetensors",
    WAN_21 + "diffusion_models/wan2.1_t2v_14B_fp8_scaled.safetensors",
    WAN_22 + "audio_encoders/wav2vec2_large_english_fp16.safetensors",
    WAN_21 + "model_patches/wan2.1_infiniteTalk_single_fp16.safetensors",
    WAN_21 + "clip_vision/clip_vision_h.safetensors",
    HUMO + "diffusion_models/humo_17B_fp8_e4m3fn.safetensors",
    HUMO + "audio_encoders/whisper_large_v3_fp16.safetensors",
    WAN_21 + "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", WAN_22 + "vae/wan_2.1_vae.safetensors",
    HUNYUAN + "diffusion_models/hunyuan_video_v2_replace_image_to_video_720p_bf16.safetensors",
    HUNYUAN + "text_encoders/clip_l.safetensors", HUNYUAN + "text_encoders/llava_llama3_fp8_scaled.safetensors",
    HUNYUAN + "clip_vision/llava_llama3_vision.safetensors", HUNYUAN + "vae/hunyuan_video_vae_bf16.safetensors",
    "https://huggingface.co/Comfy-Org/void-model/resolve/main/vae/cogvideox_vae.safetensors",
    "https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp16.safetensors")}
COMFY, MEITUAN = "Comfy-Org's Wan files (Apache-2.0)", "meituan-longcat (MIT)"

PAGES = {
    **PUPPET_PAGES,
    "first_take": Page(
        "Talking person, Wan 2.2 S2V", "Wan 2.2 S2V: a picture talks for as long as the speech",
        (Column(360, (Group("Models", (1, 2, 3, 4)), Group("The person and the speech", (5,)))),
         Column(360, (Group("What keeps the person the same", (9, 10)), Group("Prompt", (7, 8)))),
         Column(360, (Group("Audio features", (6,)), Group("Sampling", (18,)), Group("Plan", (11,)))),
         Column(420, (Group("Chunk by chunk to one video", (17,)), Group("Read me", (19,))))),
        note("A picture talks for as long as the speech, with Wan 2.2 S2V.",
             ("diffusion_models: wan2.2_s2v_14B_fp8_scaled.safetensors (16 GB)", WAV2VEC, UMT5, WAN_VAE), COMFY,
             "24 GB; less with more RAM, slower.", minutes("90 minutes", "20"), "first_take"),
        Folded(18, "Sampling", ((12, 13, 14), (15, 16)), (("16", "noise_seed"), ("15", "steps"), ("13", "cfg")))),
    "talking_story": Page(
        "Talking story, Wan 2.2 S2V", "Wan 2.2 S2V: prompts and pictures at times of the story",
        (Column(360, (Group("Models", (1, 2, 3, 4)), Group("The person and the speech", (5,)))),
         Column(360, (Group("Plan and script", (9,)), Group("What keeps the person the same", (10,)),
                      Group("Audio features", (6,)))),
         Column(360, (Group("Pictures at times of the story", (12, 13)), Group("First prompt", (7, 8)),
                      Group("Sampling", (20,)))),
         Column(420, (Group("Chunk by chunk to one video", (19,)), Group("Read me", (21,))))),
        note("The script in *Plan Take* has a prompt for each time; the picture at 0:05 is the anchor until then, so "
             "the person moves towards it (here the same picture: connect another expression). Chain one *Narrative "
             "Keyframe* per picture.",
             ("diffusion_models: wan2.2_s2v_14B_fp8_scaled.safetensors (16 GB)", WAV2VEC, UMT5, WAN_VAE), COMFY,
             "24 GB; less with more RAM, slower.", minutes("90 minutes", "20"), "talking_story"),
        Folded(20, "Sampling", ((14, 15, 16), (17, 18)), (("18", "noise_seed"), ("17", "steps"), ("15", "cfg")))),
    "stitched_image_to_video": Page(
        "Picture goes on, Wan 2.1 I2V", "Wan 2.1 I2V: chunks continue from latents, the picture is in each",
        (Column(360, (Group("Models", (1, 2, 3)), Group("The picture and the sound", (4,)))),
         Column(360, (Group("Inside the chunk, and not copied", (5, 6, 9, 17)), Group("Prompt", (7, 8)))),
         Column(360, (Group("Sampling", (18,)), Group("Plan", (10,)))),
         Column(420, (Group("Chunk by chunk to one video", (16,)), Group("Read me", (19,))))),
        note("Every chunk repeats the last 13 frames of the one before, as latents, without a round trip through the "
             "VAE. The picture stands at latent frame 10 inside each chunk; the three frames around it do not attend "
             "to it, so they do not copy its pose. Each frame is brought to the picture's "
             "colours. This model has no audio conditioning: the sound only sets the "
             "length.",
             ("diffusion_models: wan2.1_i2v_480p_14B_fp8_scaled.safetensors (16 GB)", UMT5, WAN_VAE), COMFY,
             "24 GB; less with more RAM, slower.", minutes("90 minutes", "20"), "stitched_image_to_video"),
        Folded(18, "Sampling", ((11, 12, 13), (14, 15)), (("15", "noise_seed"), ("14", "steps"), ("12", "cfg")))),
    "wan22_pair": Page(
        "Picture goes on, Wan 2.2 pair", "Wan 2.2 I2V: the high- and the low-noise model in every chunk",
        (Column(360, (Group("Models", (1, 2, 3, 4)), Group("The picture and the sound", (5,)))),
         Column(360, (Group("The anchor, for both models", (6,)), Group("Prompt", (7, 8)))),
         Column(360, (Group("Both models in one run", (11,)), Group("Sampling", (16,)), Group("Plan", (9,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)), Group("Read me", (17,))))),
        note("Wan 2.2 image-to-video whole: in each chunk the high-noise model makes the first steps, the low-noise "
             "model the rest, at the authors' boundary, each with its own scale. The anchor is on one of the two and "
             "acts on both. This model has no audio conditioning: the sound only sets the length.",
             ("diffusion_models: wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors (14 GB)",
              "diffusion_models: wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors (14 GB)", UMT5, WAN_VAE), COMFY,
             "24 GB, and 64 GB of RAM: one model at a time is on the card.", minutes("90 minutes", "20"), "wan22_pair",
             "**In 4 steps:** lightx2v's two LoRAs (wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise and _low_noise, "
             "Apache-2.0, in loras), each behind its loader in a *LoraLoaderModelOnly*; steps 4, both scales 1."),
        Folded(16, "Sampling", ((10, 12), (13, 14)), (("14", "noise_seed"), ("13", "steps")))),
    "longcat_avatar_15": Page(
        "Talking person, LongCat Avatar 1.5", "a talking person at 25 fps, 8 steps a chunk",
        (Column(360, (Group("Models", (1, 4, 2, 3, 8)),)),
         Column(360, (Group("What keeps the person the same", (16, 17)), Group("The person and the speech", (6,)),
                      Group("Prompt", (5, 7)))),
         Column(360, (Group("Audio features", (9,)), Group("Plan", (10,)), Group("Sampling", (19,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)), Group("Read me", (20,))))),
        note("Minutes of one person at 25 fps, 8 steps a chunk. The picture stands at latent frame 10 inside every "
             "chunk, and the frames around it do not copy it, as its authors do. The negative prompt acts by "
             "normalized attention guidance (NAG), since 8 steps have no CFG. Without the LoRA this model is not "
             "meant to be used.", (*AVATAR_15, WHISPER, UMT5, WAN_VAE), f"{MEITUAN}, {COMFY}",
             "24 GB, with kv_cache RAM in *Load LongCat*; 48 GB for all of it in VRAM.", minutes("30 minutes", "7"),
             "longcat_avatar_15"),
        Folded(19, "Sampling", ((18, 11), (12, 13, 14)), (("14", "noise_seed"), ("13", "kind"),
                                                          ("18", "nag_scale")))),
    "longcat_avatar_10": Page(
        "Talking person, LongCat Avatar 1.0", "a talking person at 16 fps, 50 steps, a scale each for text and speech",
        (Column(360, (Group("Models", (1, 2, 3, 8)), Group("What keeps the person the same", (10, 11)))),
         Column(360, (Group("The person and the speech", (6,)), Group("Prompt", (4, 5)))),
         Column(360, (Group("Audio features", (9,)), Group("Plan", (12,)), Group("Sampling", (18,)))),
         Column(420, (Group("Chunk by chunk to one video", (17,)), Group("Read me", (19,))))),
        note("Minutes of one person at 16 fps: 50 steps with finer last ones, text and speech each with a guidance "
             "scale of its own. Chunks continue from latents, without a round trip through the VAE.",
             ("longcat: the folder LongCat-Video-Avatar/avatar_single (about 32 GB)",
              "audio_encoders: the folder chinese-wav2vec2-base, from TencentGameMate (MIT)", UMT5, WAN_VAE),
             f"{MEITUAN}, {COMFY}", "48 GB; 24 GB with weight_dtype fp8 and kv_cache RAM in *Load LongCat*.",
             minutes("5 hours", "1 hour"), "longcat_avatar_10"),
        Folded(18, "Sampling", ((13, 14), (15, 16)),
               (("13", "text_scale"), ("13", "audio_scale"), ("16", "noise_seed")))),
    "longcat_two_speakers": Page(
        "Two speakers, LongCat Avatar 1.5", "two speakers in one picture, each with a recording",
        (Column(360, (Group("Models", (1, 4, 2, 3, 9)),)),
         Column(360, (Group("What keeps the speakers the same", (17, 18)),
                      Group("The picture and the two recordings", (6, 8)),
                      Group("Prompt", (5,)))),
         Column(360, (Group("Audio features of both speakers", (10,)), Group("Plan", (11,)), Group("Sampling", (19,)))),
         Column(420, (Group("Chunk by chunk to one video", (16,)), Group("Read me", (20,))))),
        note("Two speakers in one picture, each with a recording, in turn; *others* in it do not speak. Load a picture "
             "of two: without boxes they are expected in its left and right half (the sample shows one person). For "
             "Avatar 1.0 take avatar_multi and its encoder.",
             (*AVATAR_15, WHISPER, UMT5, WAN_VAE), f"{MEITUAN}, {COMFY}",
             "24 GB, with kv_cache RAM in *Load LongCat*; 48 GB for all of it in VRAM.", minutes("35 minutes", "8"),
             "longcat_two_speakers"),
        Folded(19, "Sampling", ((12, 13), (14, 15)), (("15", "noise_seed"), ("14", "kind")))),
    "omniavatar": Page(
        "Talking person, OmniAvatar", "a talking person, gestures included, at 25 fps, 50 steps",
        (Column(360, (Group("Models", (1, 2, 3, 8)),)),
         Column(360, (Group("The person and the speech", (6,)), Group("Prompt", (4, 5)))),
         Column(360, (Group("Audio features", (9,)), Group("Plan", (10,)), Group("Sampling", (16,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)), Group("Read me", (17,))))),
        note("A picture talks with its whole body at 25 fps, by OmniAvatar on Wan 2.1. The prompt says what the person "
             "does; each chunk begins with the last 13 frames of the one before, and every frame has the picture "
             "beside it. *OmniAvatar Speech* puts 0.34 s before the speech: its second output is the sound of the "
             "video. The 1.3B files need a quarter of the memory and less than a fifth of the time.",
             ("diffusion_models: wan2.1_t2v_14B_fp8_scaled.safetensors (14 GB)",
              "diffusion_models: OmniAvatar-14B.pt, which is pytorch_model.pt of OmniAvatar/OmniAvatar-14B under "
              "another name (about 1.3 GB)",
              "audio_encoders: the folder wav2vec2-base-960h, from facebook (Apache-2.0)", UMT5, WAN_VAE),
             f"OmniAvatar (Apache-2.0), {COMFY}", "24 GB; less with more RAM, slower.", minutes("5 hours", "1 hour"),
             "omniavatar"),
        Folded(16, "Sampling", ((11, 12), (13, 14)),
               (("11", "text_scale"), ("11", "audio_scale"), ("14", "noise_seed")))),
    "streaming_student": Page(
        "Talking stream, AvatarForcing", "AvatarForcing: a stream of a talking person, one pass a block, at 25 fps",
        (Column(360, (Group("Models", (1, 2, 3, 6)),)),
         Column(360, (Group("The person and the speech", (5,)), Group("Prompt", (4,)),
                      Group("What keeps the person the same", (8, 9)))),
         Column(360, (Group("Audio features", (7,)), Group("Plan", (10,)), Group("Sampling", (16,)))),
         Column(420, (Group("Block by block to one video", (15,)), Group("Read me", (17,))))),
        note("A picture talks at 25 fps as a stream, by AvatarForcing, a student of 1.3B on OmniAvatar's network. The "
             "window holds 4 blocks of 4 latents and looks 1.9 s of speech ahead; each block costs the same however "
             "long the take is. The picture is kept as keys just before the window, and the last 2 latents as they "
             "were seen. Other students: *Load Student* and *Student Schedule* say which levels and blocks are "
             "theirs.",
             ("diffusion_models: AvatarForcing.pt, which is model.pt of lycui/AvatarForcing under another name",
              "audio_encoders: the folder wav2vec2-base-960h, from facebook (Apache-2.0)", UMT5, WAN_VAE),
             f"lycui/AvatarForcing, {COMFY}. **Licence:** its page says Apache-2.0, the licence file of its code "
             "allows academic use only: read both before use. Nothing of that code is in this pack",
             "12 GB.", minutes("3 minutes", "1 minute"), "streaming_student"),
        Folded(16, "Sampling", ((11, 12), (13, 14)),
               (("12", "block_latents"), ("13", "blocks"), ("14", "noise_seed")))),
    "humo": Page(
        "Talking person, HuMo", "a person from pictures, text and speech, at 25 fps, 50 steps",
        (Column(360, (Group("Models", (1, 2, 3, 8)),)),
         Column(360, (Group("The person and the speech", (6,)), Group("Prompt", (4, 5)))),
         Column(360, (Group("Audio features", (9,)), Group("Plan", (10,)), Group("Sampling", (16,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)), Group("Read me", (17,))))),
        note("A person talks at 25 fps, by HuMo on Wan 2.1. The picture says who it is and not how the video begins: "
             "what is to be seen stands in the prompt. Up to 8 pictures may come (core's *Batch Images*), or none; "
             "without audio_features the person does not speak. Guidance, solver and schedule are the authors' own. "
             "1.7B: humo_1.7B_fp16.safetensors, text_scale 7.5, audio_scale 7.5, in a quarter of the memory and less "
             "than a fifth of the time.",
             ("diffusion_models: humo_17B_fp8_e4m3fn.safetensors (17 GB), or humo_1.7B_fp16.safetensors",
              "audio_encoders: whisper_large_v3_fp16.safetensors (1.3 GB)", UMT5, WAN_VAE),
             f"Comfy-Org/HuMo_ComfyUI (HuMo and whisper, Apache-2.0), {COMFY}", "24 GB; less with more RAM, slower.",
             minutes("8 hours", "2 hours"), "humo"),
        Folded(16, "Sampling", ((11,), (12, 13)),
               (("11", "text_scale"), ("11", "audio_scale"), ("12", "steps"), ("13", "noise_seed")))),
    "infinitetalk": Page(
        "Talking person, InfiniteTalk", "a talking person at 25 fps on Wan 2.1, 8 steps a chunk",
        (Column(360, (Group("Models", (1, 3, 4, 5, 6, 7)),)),
         Column(360, (Group("Driven by speech", (2, 8)), Group("The person and the speech", (9,)),
                      Group("Prompt", (10,)))),
         Column(360, (Group("Audio features", (11,)), Group("Plan", (12,)), Group("Sampling", (17,)))),
         Column(420, (Group("Chunk by chunk to one video", (16,)), Group("Read me", (18,))))),
        note("A picture talks at 25 fps, by InfiniteTalk on Wan 2.1. Each chunk begins with the last 9 frames of the "
             "one before and has the picture beside it; each frame keeps the picture's colours. With the LoRA: 8 "
             "steps, shift 2, one prompt in both places, audio_scale 2. Without it: 40 steps, shift 7, a negative "
             "prompt, text_scale 5, audio_scale 4. Two speakers: the multi patch, and *Two Speakers* in place of "
             "*Audio Features*.",
             ("diffusion_models: wan2.1_i2v_480p_14B_fp8_scaled.safetensors (16 GB)",
              "model_patches: wan2.1_infiniteTalk_single_fp16.safetensors (5.1 GB), from MeiGen-AI (Apache-2.0)",
              "loras: lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors (0.7 GB), from lightx2v "
              "(Apache-2.0), by Kijai",
              "audio_encoders: wav2vec2-chinese-base_fp16.safetensors (0.2 GB), from TencentGameMate (MIT), by Kijai",
              "clip_vision: clip_vision_h.safetensors (1.3 GB)", UMT5, WAN_VAE), COMFY,
             "24 GB; less with more RAM, slower.", minutes("60 minutes", "13"), "infinitetalk"),
        Folded(17, "Sampling", ((13, 14), (15,)),
               (("13", "audio_scale"), ("14", "steps"), ("14", "shift"), ("15", "noise_seed")))),
    "wan_animate": Page(
        "Follow a video, Wan-Animate", "a picture follows the poses and the face of a video of any length",
        (Column(360, (Group("Models", (1, 2, 3, 4)), Group("Prompt", (9,)))),
         Column(360, (Group("Driving video", (6, 7, 8)), Group("Who is moved", (5,)))),
         Column(360, (Group("Plan", (10,)), Group("Sampling", (11, 17)))),
         Column(420, (Group("Chunk by chunk to one video", (16,)), Group("Read me", (18,))))),
        note("The person of a picture does what a video shows, at 30 fps and for as long as it lasts, by Wan 2.2 "
             "Animate. The pose video is what a pose preprocessor drew, the face video the face cut out of the same "
             "frames: make both of yours with any preprocessor pack, save them with *Save Video* and put *Load Video* "
             "in place of *Sample Video*. They are read frame by frame. "
             "To replace a person in a scene, connect background and mask as well. Without a face video the "
             "poses alone are followed.",
             ("diffusion_models: wan2.2_animate_14B_bf16.safetensors (35 GB)",
              "clip_vision: clip_vision_h.safetensors (1.3 GB)", UMT5, WAN_VAE), COMFY,
             "24 GB; less with more RAM, slower.", minutes("100 minutes", "22"), "wan_animate",
             "The video has the pose video's sound; connect speech to *Plan Take* for another length and sound."),
        Folded(17, "Sampling", ((12, 13), (14, 15)), (("14", "steps"), ("15", "noise_seed")))),
    "everanimate": Page(
        "Follow for minutes, EverAnimate", "a picture follows poses for minutes: pictures and latents that persist",
        (Column(360, (Group("Models", (1, 2, 3, 4, 5)), Group("Prompt", (11,)))),
         Column(360, (Group("Driving video", (7, 8, 9)), Group("Who is moved", (6,)))),
         Column(360, (Group("What persists", (10,)), Group("Plan", (12,)), Group("Sampling", (19,)))),
         Column(420, (Group("Chunk by chunk to one video", (18,)), Group("Read me", (20,))))),
        note("As *Wan-Animate*, for minutes: four pictures of the person, three of them from the first clip, stay "
             "the same for the whole take, and each clip's last latents pass to the next as they were sampled "
             "(EverAnimate). Clips of 77 frames repeat 4. Connect pictures from other sides to *views* of *Persistent "
             "Latents* to draw none. The pose video is what a pose preprocessor drew, the face video the face cut out "
             "of the same frames: put *Load Video* with yours in place of *Sample Video*.",
             ("diffusion_models: wan2.2_animate_14B_bf16.safetensors (35 GB)",
              "loras: stage2_480p.safetensors, from epfl-vita/everanimate (MIT)",
              "clip_vision: clip_vision_h.safetensors (1.3 GB)", UMT5, WAN_VAE), COMFY,
             "24 GB; less with more RAM, slower.", minutes("120 minutes", "26"), "everanimate",
             "The video has the pose video's sound; connect speech to *Plan Take* for another length and sound."),
        Folded(19, "Sampling", ((13, 14), (15, 16), (17,)), (("16", "steps"), ("17", "noise_seed")))),
    "longcat_video": Page(
        "Picture goes on, LongCat-Video", "a picture continues for as long as the sound",
        (Column(360, (Group("Models", (1, 2, 3)), Group("The first picture and the sound", (6,)))),
         Column(360, (Group("Prompt", (4, 5)), Group("Read me", (14,)))),
         Column(360, (Group("Sampling", (12, 9, 10, 11)), Group("Plan", (8,)))),
         Column(420, (Group("Chunk by chunk to one video", (13,)),))),
        note("LongCat-Video itself, without audio conditioning: a picture continues for as long as the sound, each "
             "chunk from the last 13 frames of the one before, at 15 fps. Without a picture it is text to video. With "
             "the 16-step LoRA: distilled, 16 steps, text_scale 1.",
             ("longcat: the folder LongCat-Video/dit (about 27 GB)", UMT5, WAN_VAE), f"{MEITUAN}, {COMFY}",
             "48 GB; 24 GB with weight_dtype fp8 and kv_cache RAM in *Load LongCat*.", minutes("5 hours", "1 hour"),
             "longcat_video")),
    "longcat_refine": Page(
        "Larger and smoother, LongCat-Video", "any finished video at 720p, with twice the frames",
        (Column(360, (Group("Models", (1, 2, 3, 4, 5)),)),
         Column(360, (Group("The video, and its prompt", (7, 6)), Group("Read me", (13,)))),
         Column(360, (Group("Sampling", (11, 8, 9, 10)),)),
         Column(420, (Group("Chunk by chunk to one video", (12,)),))),
        note("LongCat-Video with its refinement LoRA makes a finished video of any model larger (832x480 becomes "
             "1280x704) and doubles its frames, chunk by chunk in constant memory. The sound is kept.",
             ("longcat: the folder LongCat-Video/dit (about 27 GB)",
              "loras: LongCat-Video/lora/refinement_lora.safetensors", UMT5, WAN_VAE), f"{MEITUAN}, {COMFY}",
             "48 GB; 24 GB with weight_dtype fp8 in *Load LongCat*.", minutes("2 hours", "25 minutes"), "refined",
             yours="**Yours:** a *Load Video* node in place of *Sample Video*; ComfyUI lists those of its "
                   "input folder.",
             shown="Refine Take")),
    "cogvideox": Page(
        "Picture goes on, CogVideoX 1.5", "a picture continues for as long as the sound, at 16 fps",
        (Column(360, (Group("Models", (1, 2, 3)), Group("The first picture and the sound", (6,)))),
         Column(360, (Group("What keeps the person the same", (7,)), Group("Prompt", (4, 5)))),
         Column(360, (Group("Sampling", (12, 9, 10, 11)), Group("Plan", (8,)))),
         Column(420, (Group("Chunk by chunk to one video", (13,)), Group("Read me", (14,))))),
        note("CogVideoX 1.5 without audio conditioning: a picture continues for as long as the sound, each chunk from "
             "the last 5 latents of the one before, with the picture ahead of it. Needs ComfyUI 0.33, whose VOID "
             "Sampler is the only one that fits this model. The smaller CogVideoX 5B I2V makes 720x480 at 8 fps.",
             ("diffusion_models: the folder transformer of zai-org/CogVideoX1.5-5B-I2V, in a folder of that name (11 "
              "GB)", "text_encoders: t5xxl_fp16.safetensors (9.8 GB)", "vae: cogvideox_vae.safetensors (0.4 GB)"),
             "zai-org (CogVideoX License: read it before commercial use; the 2B is Apache-2.0), Comfy-Org's void-model "
             "(VAE, Apache-2.0) and comfyanonymous (text encoder, Apache-2.0)",
             "24 GB; less with more RAM, slower.", minutes("5 hours", "1 hour"), "cogvideox")),
    "hunyuan_video": Page(
        "Picture goes on, HunyuanVideo", "a picture continues for as long as the sound, at 24 fps",
        (Column(360, (Group("Models", (1, 2, 3, 4)),)),
         Column(360, (Group("The first picture and the sound", (5,)), Group("What keeps the person the same", (9,)))),
         Column(360, (Group("Prompt", (6, 7, 8)), Group("Sampling", (18,)))),
         Column(420, (Group("Plan", (10,)), Group("Read me", (19,)))),
         Column(420, (Group("Chunk by chunk to one video", (17,)),))),
        note("HunyuanVideo without audio conditioning: a picture continues for as long as the sound, each chunk from "
             "the last 4 latents of the one before, with the picture ahead of it. What is known has timestep 0, as "
             "this model (v2, replace) was trained. HunyuanVideo 1.5: its model, VAE and text encoders, and "
             "sigclip_vision_patch14_384 on clip_vision of *Long Take* in place of *HunyuanImageToVideo*.",
             ("diffusion_models: hunyuan_video_v2_replace_image_to_video_720p_bf16.safetensors (26 GB)",
              "text_encoders: clip_l.safetensors (0.2 GB), llava_llama3_fp8_scaled.safetensors (9.1 GB)",
              "clip_vision: llava_llama3_vision.safetensors (0.6 GB)",
              "vae: hunyuan_video_vae_bf16.safetensors (0.5 GB)"),
             "Comfy-Org's HunyuanVideo files. **Licence:** Tencent Hunyuan Community License, which does not hold in "
             "the European Union, the United Kingdom and South Korea: read it before use",
             "24 GB with weight_dtype fp8 in *Load Diffusion Model*; 48 GB without.", minutes("70 minutes", "15"),
             "hunyuan_video"),
        Folded(18, "Sampling", ((11, 12, 13), (14, 15, 16)),
               (("16", "noise_seed"), ("15", "steps"), ("12", "guidance")))),
    "ltx": Page(
        "Talking person, LTX-2.3", "a talking person at 24 fps, picture and sound in one model, 8 steps",
        (Column(360, (Group("Models", (1, 2, 3, 4)),)),
         Column(360, (Group("The person and the speech", (6,)), Group("What keeps the person the same", (7,)))),
         Column(360, (Group("Prompt", (5,)), Group("Speech, held in the latent", (8,)), Group("Sampling", (15,)))),
         Column(420, (Group("Plan", (9,)), Group("Read me", (16,)))),
         Column(420, (Group("Chunk by chunk to one video", (14,)),))),
        note("A picture talks at 24 fps, by LTX-2.3: the speech is held in the model's own sound while the picture is "
             "made, and the video has the recording. Each chunk begins with the last frame of the one before and has "
             "its last latents beside it; the picture stands half a second ahead. The prompt says that the person "
             "speaks, and a light noise lies under the speech that the model is given (*noise*): on very clean speech "
             "it tends to hold still. LTX-2 and 2.5: their checkpoints.",
             ("checkpoints: ltx-2.3-22b-dev-fp8.safetensors (29 GB)",
              "loras: ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors",
              "text_encoders: gemma_3_12B_it_fp4_mixed.safetensors (9.4 GB)"),
             "Lightricks and Comfy-Org. **Licence:** LTX-2.x Community License: free below 10 million dollars of "
             "revenue, its rules of use and duties of marking pass on: read it before use",
             "24 GB with much RAM; 48 GB without.", minutes("10 minutes", "3"), "ltx"),
        Folded(15, "Sampling", ((10, 11), (12, 13)), (("13", "noise_seed"),))),
    "minimax_h3": Page(
        "Talking person, MiniMax H3", "a talking person at 24 fps, picture and sound in one model, 8 steps",
        (Column(360, (Group("Models", (1, 2, 3, 4, 5)),)),
         Column(360, (Group("The person and the speech", (7,)), Group("What keeps the person the same", (8,)))),
         Column(360, (Group("Prompt", (6,)), Group("Speech, held in the latent", (9,)), Group("Sampling", (16,)))),
         Column(420, (Group("Plan", (10,)), Group("Read me", (17,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)),))),
        note("**Licence first:** MiniMax H3's Community License does not hold in the European Union, the United "
             "Kingdom, South Korea and the United States, also for what is made with it. Lodestar fetches nothing of "
             "it. Where it holds: a picture talks at 24 fps; the speech is held in the model's own sound while the "
             "picture is made, half a second of what comes is given with it, and the video has the recording. Each "
             "chunk begins with the last 7 latents of the one before; the picture is ComfyUI's own keyframe, half a "
             "second ahead. Without the LoRA: 20 steps.",
             ("diffusion_models: minimax_h3_fl2va_pruned_int8_convrot.safetensors",
              "loras: minimax_h3_fl2v_turbo_8step_v1.0_comfyui_bf16.safetensors",
              "text_encoders: qwen3vl_32b_minimax_h3_nvfp4_awq.safetensors",
              "vae: minimax_h3_video_vae_fp16.safetensors, minimax_h3_audio_vae_fp32.safetensors"),
             "Comfy-Org and lightx2v",
             "24 GB with much RAM.", minutes("40 minutes", "12"), "minimax_h3"),
        Folded(16, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "steps")))),
}
