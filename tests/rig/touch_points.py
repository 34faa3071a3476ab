"""Where the pack touches ComfyUI's objects: in a file of ours an expression, as written there, and what it is there.

Names that are imported need no line here: overlay.py finds them. How each is called is read from our source, too.
"""
PATCHER, BASE, GUIDER = "comfy.model_patcher.ModelPatcher", "comfy.model_base.BaseModel", "comfy.samplers.CFGGuider"
WAN, VAE, SERVER = "comfy.ldm.wan.model", "comfy.sd.VAE", "server.PromptServer"
IO, BAR, MEMORY = "comfy_api.latest.io", "comfy.utils.ProgressBar", "comfy.model_management"
FLOW, VIDEO = "comfy.model_sampling.ModelSamplingDiscreteFlow", "comfy_api.latest.InputImpl.VideoFromFile"

POINTS = {
    "backbones/attach.py": {
        "model.clone": f"{PATCHER}.clone", "model.get_wrappers": f"{PATCHER}.get_wrappers",
        "clone.remove_wrappers_with_key": f"{PATCHER}.remove_wrappers_with_key",
        "clone.add_wrapper_with_key": f"{PATCHER}.add_wrapper_with_key",
        "clone.add_patches": f"{PATCHER}.add_patches", "clone.add_weight_wrapper": f"{PATCHER}.add_weight_wrapper",
        "clone.get_additional_models_with_key": f"{PATCHER}.get_additional_models_with_key",
        "clone.set_additional_models": f"{PATCHER}.set_additional_models", "kind": PATCHER,
        "model.load_device": f"{PATCHER}.load_device", "model.offload_device": f"{PATCHER}.offload_device",
        "chunk_guider.model_patcher.model_options": f"{PATCHER}.model_options",
        "model.model.process_latent_in": f"{BASE}.process_latent_in",
        "executor.class_obj.diffusion_model": f"{BASE}.diffusion_model",
        "guider.model_patcher": f"{GUIDER}.model_patcher", "guider.model_options": f"{GUIDER}.model_options",
        "guider.original_conds": f"{GUIDER}.original_conds", "guider.conds": f"{GUIDER}.conds"},
    "backbones/audio/encoder.py": {"progress.update": f"{BAR}.update"},
    "backbones/comfy_values.py": {
        "patcher.object_patches_backup": f"{PATCHER}.object_patches_backup", "patcher.backup": f"{PATCHER}.backup",
        "patcher.object_patches": f"{PATCHER}.object_patches", "patcher.hook_backup": f"{PATCHER}.hook_backup",
        "patcher.get_model_object": f"{PATCHER}.get_model_object", "value.patcher": f"{VAE}.patcher"},
    "networks/longcat/layers.py": {"self.attention": "comfy.ldm.modules.attention.attention_basic"},
    "backbones/high_low_guider.py": {
        "super().outer_sample": f"{GUIDER}.outer_sample", "self.inner_set_conds": f"{GUIDER}.inner_set_conds",
        "super().outer_predict_noise": f"{GUIDER}.outer_predict_noise", "other.inner_set_conds":
            f"{GUIDER}.inner_set_conds",
        "self.set_cfg": f"{GUIDER}.set_cfg", "self.model_options": f"{GUIDER}.model_options",
        "self.original_conds": f"{GUIDER}.original_conds", "self.model_patcher.pre_run": f"{PATCHER}.pre_run",
        "high.sample": f"{GUIDER}.sample", "low.sample": f"{GUIDER}.sample"},
    "backbones/longcat/loader.py": {
        "manager.get_torch_device": f"{MEMORY}.get_torch_device", "manager.unet_dtype": f"{MEMORY}.unet_dtype",
        "manager.unet_offload_device": f"{MEMORY}.unet_offload_device",
        "manager.unet_manual_cast": f"{MEMORY}.unet_manual_cast",
        "patcher.cached_patcher_init": f"{PATCHER}.cached_patcher_init"},
    "backbones/longcat/model.py": {
        "super().extra_conds": f"{BASE}.extra_conds", "super().memory_required": f"{BASE}.memory_required",
        "self.process_latent_in": f"{BASE}.process_latent_in",
        "self.memory_usage_factor_conds": f"{BASE}.memory_usage_factor_conds"},
    "backbones/network_loading.py": {
        "manager.get_torch_device": f"{MEMORY}.get_torch_device", "manager.unet_dtype": f"{MEMORY}.unet_dtype",
        "manager.unet_offload_device": f"{MEMORY}.unet_offload_device",
        "manager.unet_manual_cast": f"{MEMORY}.unet_manual_cast", "model.load_model_weights":
            f"{BASE}.load_model_weights"},
    "backbones/omniavatar/loader.py": {"patcher.cached_patcher_init": f"{PATCHER}.cached_patcher_init"},
    "backbones/omniavatar/student.py": {"patcher.cached_patcher_init": f"{PATCHER}.cached_patcher_init"},
    "backbones/wan/student.py": {"patcher.cached_patcher_init": f"{PATCHER}.cached_patcher_init"},
    "backbones/wan/live_avatar.py": {"patcher.cached_patcher_init": f"{PATCHER}.cached_patcher_init"},
    "backbones/omniavatar/model.py": {
        "super().extra_conds": f"{BASE}.extra_conds", "self.process_latent_in": f"{BASE}.process_latent_in",
        "self.out_dim": f"{WAN}.WanModel.out_dim"},
    "backbones/speech_guider.py": {
        "super().__init__": GUIDER, "self.set_cfg": f"{GUIDER}.set_cfg",
        "self.inner_set_conds": f"{GUIDER}.inner_set_conds", "self.inner_model": f"{GUIDER}.inner_model",
        "self.conds": f"{GUIDER}.conds", "self.cfg": f"{GUIDER}.cfg"},
    "backbones/take_checks.py": {"model.get_model_object": f"{PATCHER}.get_model_object",
                                 "model.get_model_object('model_sampling').sigma_max": f"{FLOW}.sigma_max"},
    "backbones/vae.py": {
        "self._vae.memory_used_decode": f"{VAE}.memory_used_decode", "self._vae.vae_dtype": f"{VAE}.vae_dtype",
        "self._vae.disable_offload": f"{VAE}.disable_offload", "self._vae.process_output": f"{VAE}.process_output",
        "self._vae.device": f"{VAE}.device", "self._vae.patcher": f"{VAE}.patcher",
        "self._vae.upscale_ratio": f"{VAE}.upscale_ratio", "vae.downscale_ratio": f"{VAE}.downscale_ratio",
        "vae.latent_dim": f"{VAE}.latent_dim", "vae.latent_channels": f"{VAE}.latent_channels",
        "vae.first_stage_model": f"{VAE}.first_stage_model", "self._vae.decode": f"{VAE}.decode",
        "vae.encode": f"{VAE}.encode", "vae.throw_exception_if_invalid": f"{VAE}.throw_exception_if_invalid",
        "vae.first_stage_model.decoder": "comfy.ldm.wan.vae.WanVAE.decoder",
        "model.conv2": "comfy.ldm.wan.vae.WanVAE.conv2", "self._decoder": "comfy.ldm.wan.vae2_2.Decoder3d.forward"},
    "backbones/wan/base.py": {"module.ref_conv": f"{WAN}.WanModel.ref_conv", "module.in_dim": f"{WAN}.WanModel.in_dim",
                         "module.out_dim": f"{WAN}.WanModel.out_dim"},
    "backbones/wan/call.py": {
        "self.module.patch_size": f"{WAN}.WanModel.patch_size",
        "self.module.rope_embedder": f"{WAN}.WanModel.rope_embedder", "self.module.out_dim": f"{WAN}.WanModel.out_dim"},
    "backbones/wan/s2v.py": {"own_rope": f"{WAN}.WanModel.rope_encode",
                             "call.module.rope_encode": f"{WAN}.WanModel.rope_encode"},
    "backbones/wan/s2v_audio.py": {
        "module.casual_audio_encoder": f"{WAN}.WanModel_S2V.casual_audio_encoder",
        "encoder": f"{WAN}.CausalAudioEncoder.forward", "module.audio_injector": f"{WAN}.AudioInjector_WAN.forward",
        "module.audio_injector.injected_block_id": f"{WAN}.AudioInjector_WAN.injected_block_id"},
    "backbones/wan/s2v_timesteps.py": {
        "call.module.frame_packer": f"{WAN}.WanModel_S2V.frame_packer", "packer.proj": f"{WAN}.FramePackMotioner.proj",
        "packer.proj_2x": f"{WAN}.FramePackMotioner.proj_2x", "packer.proj_4x": f"{WAN}.FramePackMotioner.proj_4x",
        "packer.zip_frame_buckets": f"{WAN}.FramePackMotioner.zip_frame_buckets"},
    "host/events.py": {"get_progress_state().dynprompt": "comfy_execution.progress.ProgressRegistry.dynprompt",
                       "get_progress_state().dynprompt.get_display_node_id":
                           "comfy_execution.graph.DynamicPrompt.get_display_node_id",
                       "server.send_sync": f"{SERVER}.send_sync", "server.client_id": f"{SERVER}.client_id",
                       "server.send_progress_text": f"{SERVER}.send_progress_text"},
    "host/progress.py": {
        "self._bar.update_absolute": f"{BAR}.update_absolute",
        "previewer.decode_latent_to_preview_image": "latent_preview.LatentPreviewer.decode_latent_to_preview_image"},
    "host/chunk_sampler.py": {"guider.sample": f"{GUIDER}.sample", "model.load_device": f"{PATCHER}.load_device"},
    "host/session.py": {
        "self.hidden.unique_id": f"{IO}.HiddenHolder.unique_id", "self.hidden.prompt": f"{IO}.HiddenHolder.prompt",
        "self.hidden.extra_pnginfo": f"{IO}.HiddenHolder.extra_pnginfo"},
    "nodes/long_take.py": {"PLAN.Input": f"{IO}.Input"},
    "nodes/longcat_schedule.py": {"model.get_model_object('model_sampling').shift": f"{FLOW}.shift"},
    "nodes/plan_take.py": {"PLAN.Output": f"{IO}.Output"},
    "host/driving_sources.py": {
        "video.get_stream_source": f"{VIDEO}.get_stream_source", "video.get_dimensions": f"{VIDEO}.get_dimensions",
        "video.save_to": f"{VIDEO}.save_to"},
    "host/measured_video.py": {"video.get_stream_source": f"{VIDEO}.get_stream_source", "bar.total": f"{BAR}.total",
                               "video.save_to": f"{VIDEO}.save_to", "video.get_dimensions": f"{VIDEO}.get_dimensions",
                               "bar.update_absolute": f"{BAR}.update_absolute"},
}
# What ComfyUI calls of ours in place of its own, by file, with ComfyUI's: ours must take what ComfyUI's takes
STAND_INS = {
    ("backbones/attach.py", "with_run"): f"{GUIDER}.outer_sample",
    ("backbones/attach.py", "with_room"): "comfy.sampler_helpers.prepare_sampling",
    ("backbones/high_low_guider.py", "HighLowGuider.sample"): f"{GUIDER}.sample",
    ("backbones/high_low_guider.py", "FirstPart.outer_predict_noise"): f"{GUIDER}.outer_predict_noise",
    ("backbones/longcat/model.py", "LongCatVideo.extra_conds"): f"{BASE}.extra_conds",
    ("backbones/longcat/model.py", "LongCatVideo.extra_conds_shapes"): f"{BASE}.extra_conds_shapes",
    ("backbones/longcat/model.py", "LongCatVideo.memory_required"): f"{BASE}.memory_required",
    ("backbones/longcat/model.py", "LongCatVideo.scale_latent_inpaint"): f"{BASE}.scale_latent_inpaint",
    ("backbones/omniavatar/model.py", "OmniAvatar.concat_cond"): f"{BASE}.concat_cond",
    ("backbones/omniavatar/model.py", "OmniAvatar.extra_conds"): f"{BASE}.extra_conds",
    ("backbones/omniavatar/model.py", "OmniAvatar.scale_latent_inpaint"): f"{BASE}.scale_latent_inpaint",
    ("backbones/speech_guider.py", "SpeechGuider.predict_noise"): f"{GUIDER}.predict_noise",
    ("backbones/wan/s2v.py", "WanS2V.with_layout.rope"): f"{WAN}.WanModel.rope_encode",
}
# Lists of ours that are the first parameters of a function of ComfyUI's
ORDERS = {("backbones/wan/call.py", "WanCall.names"): f"{WAN}.WanModel._forward",
          ("backbones/hunyuan/call.py", "HunyuanCall.names"): "comfy.ldm.hunyuan_video.model.HunyuanVideo._forward"}
# Only asked for where the ComfyUI has it
GUARDED = {"comfy.model_prefetch.pause_malloc_graph", "comfy.model_management.archive_model_dtypes",
           f"{PATCHER}.cached_patcher_init", "comfy.model_management.in_training",
           "comfy.weight_adapter.bypass.BypassInjectionManager",
           *(f"comfy_extras.nodes_mediapipe.{name}{method}" for method in ("", ".execute")
             for name in ("LoadMediaPipeFaceLandmarker", "MediaPipeFaceLandmarker")),
           *(f"comfy.ldm.lightricks.vae.causal_video_autoencoder.{name}"
             for name in ("CausalConv3d", "mark_conv3d_ended", "get_max_chunk_size"))}
