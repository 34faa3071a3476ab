"""The pages of the workflows that need no download: of takes with the puppet, and of a training on it."""
from lib.workflow_page import Column, Folded, Group, Page, note

PUPPET_PAGES = {
    "puppet": Page(
        "Talking puppet", "no download, no graphics card, 2 minutes",
        (Column(360, (Group("Models", (1, 2, 5)), Group("The character and the speech", (3,)))),
         Column(360, (Group("What keeps the character the same", (8, 9)), Group("Read me", (18,)))),
         Column(360, (Group("Audio features", (6,)), Group("Prompt", (7,)), Group("Sampling", (17,)),
                      Group("Plan", (10,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)),)),
         Column(420, (Group("Report", (16,)),))),
        note("A drawn character talks for 20 seconds: a LongCat avatar of 5 million parameters, trained on "
             "drawings. Press Run: everything it needs is in the pack.", (), "", "none needed.",
             "a minute or two on two CPU cores.", "puppet",
             "**To try:** bypass *Lookahead Anchor* and watch the character drift; set its distance to 80; "
             "set *Latent Stitch* to re-encode."),
        Folded(17, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "steps")))),
    "video_reference_puppet": Page(
        "Puppet kept by a video", "a video of the character keeps it the same; no download",
        (Column(360, (Group("Models", (1, 2, 5)), Group("The character and the speech", (3, 4)))),
         Column(360, (Group("What keeps the character the same", (8, 9)), Group("Read me", (18,)))),
         Column(360, (Group("Audio features", (6,)), Group("Prompt", (7,)), Group("Sampling", (17,)),
                      Group("Plan", (10,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)),)),
         Column(420, (Group("Report", (16,)),))),
        note("The drawn character of *puppet*, with a video of it in place of the anchor: every frame of the take "
             "attends to 17 frames of the video, whose keys are computed once. *Video Reference* says what it adds "
             "before anything is sampled.", (), "", "none needed.", "a minute or two on two CPU cores.",
             "video_reference_puppet",
             "**To try:** draw a mask over the head and connect it to *regions*; choose spread; set frames to 5. For a "
             "real person load your own video and a model for real people."),
        Folded(17, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "steps")))),
    "live_puppet": Page(
        "Puppet that talks live", "talks while its speech arrives; no download",
        (Column(360, (Group("Models", (1, 2, 4)), Group("The character and the speech", (3,)))),
         Column(360, (Group("What keeps the character the same", (6, 7)), Group("Prompt", (5,)),
                      Group("Read me", (15,)))),
         Column(360, (Group("A window of blocks", (14,)), Group("Plan", (8,)))),
         Column(420, (Group("Block by block, to be watched at once", (13,)),))),
        note("A drawn character talks while the speech is still arriving: *Rolling Window* finishes 0.32 s at a time, "
             "and *Live Take* shows it at once, 0.64 s and one step behind the sound.", (), "", "none needed.",
             "about as long as the speech on two quiet CPU cores.", "live_puppet",
             "**To try:** write talk.wav into *source* and record that file into ComfyUI's input folder, or live:talk "
             "and send speech to /lodestar/live/talk (the help page of *Live Take* says how).", shown="Live Take"),
        Folded(14, "A window of blocks", ((9, 10), (11, 12)), (("12", "noise_seed"), ("11", "blocks")))),
    "streaming_puppet": Page(
        "Puppet as a stream", "a stream at the same cost however long it is; no download",
        (Column(360, (Group("Models", (1, 2, 5)), Group("The character and the speech", (3,)))),
         Column(360, (Group("What keeps the character the same", (8, 9)), Group("Read me", (18,)))),
         Column(360, (Group("Audio features", (6,)), Group("Prompt", (7,)), Group("Sampling", (17,)),
                      Group("Plan", (10,)))),
         Column(420, (Group("Block by block to one video", (15,)),)),
         Column(420, (Group("Report", (16,)),))),
        note("The drawn character of *puppet* as a stream: blocks of two latents at falling noise levels, the oldest "
             "leaves as a new one enters. *Plan Take* says how far it looks ahead in the speech and what it keeps.",
             (), "", "none needed.", "a few minutes on two CPU cores.", "streaming_puppet",
             "**To try:** turn reindex of *Style Anchor* off and the picture falls behind; set latents of *Temporal "
             "Anchor* to 0 and each window starts from what it holds alone."),
        Folded(17, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "blocks"), ("13", "passes")))),
    "train_puppet_lora": Page(
        "LoRA trained on a puppet", "a video, a recipe, its loss, and a take with the LoRA; no download",
        (Column(360, (Group("Models", (1, 2, 5)), Group("The character and the speech", (3,)))),
         Column(360, (Group("Clips of a video", (4,)), Group("Read me", (21,)))),
         Column(360, (Group("Training", (8, 9)),)),
         Column(360, (Group("The LoRA on the model", (16, 19)), Group("Audio features", (6,)), Group("Prompt", (7,)),
                      Group("Sampling", (20,)), Group("Plan", (10,)))),
         Column(420, (Group("Chunk by chunk to one video", (15,)),))),
        note("From a video to a LoRA in a take, on the drawn character: *Make Training Clips* encodes the video once, "
             "*Train Recipe* trains, *Plot Loss Graph* draws the loss, *Load LoRA Model* puts the LoRA on the model. "
             "40 steps on one clip of 3 s show the way, and not yet an effect.", (), "", "none needed.",
             "a few minutes on two CPU cores.", "puppet_lora",
             "**To try:** cancel the training and queue again: it goes on. For a model of your own: load it in place "
             "of *Load LongCat*, a folder of your videos in *folder*, another name in both nodes, 1000 steps, rank 32 "
             "and a rate of 1e-4. The LoRA is in Load LoRA's list, below lodestar_training."),
        Folded(20, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "steps")))),
}
