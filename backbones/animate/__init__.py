"""Wan-Animate (Wan 2.2) and Wan-Animate 2 on ComfyUI's AnimateWanModel and WanAnimate2Model."""
