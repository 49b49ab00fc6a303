"""Numbers fixed by the APPLE paper, its code, or the models it builds on. Each names its source.

Sources: *APPLE* is arXiv 2601.15288 and its published code; *FLUX* is black-forest-labs/FLUX.1 as in
diffusers; *PuLID* is arXiv 2404.16022 in its FLUX form; *OminiControl* is arXiv 2411.15098.
"""

from __future__ import annotations

PROMPT = "a photo of human face"  # APPLE: the one prompt of training and inference
EMPTY_PROMPT = ""  # APPLE: what text dropout puts in its place

INFERENCE_STEPS = 28  # APPLE: sampling and inversion alike
TRAINING_GUIDANCE = 1.0  # APPLE: the distilled guidance scalar while training
CONDITION_TIMESTEP = 0.0  # OminiControl: the condition branch is always clean
CONDITION_GUIDANCE = 1.0  # OminiControl: and never guided

SHIFT_TOKENS = (256, 4096)  # FLUX: token counts between which mu is linear
SHIFT_MU = (0.5, 1.15)  # FLUX: mu at those token counts

DROPOUT = 0.1  # APPLE: text, condition and identity, independently
LEARNING_RATE = 1e-4  # APPLE: AdamW, constant
WEIGHT_DECAY = 1e-3  # APPLE
GRADIENT_CLIP = 0.5  # APPLE: global norm
LORA_RANK = 64  # APPLE, section on implementation; alpha is the same
TEACHER_IDENTITY_THRESHOLD = 0.35  # APPLE teacher: identity loss only where t <= this
STUDENT_IDENTITY_THRESHOLD = 0.5  # APPLE student
BATCH_SIZE = 16  # APPLE: 1 row x 4 accumulated x 4 GPUs
TEACHER_STEPS = 65_000  # APPLE: 15k without the identity loss, then 50k with it
FLOW_ONLY_STEPS = 15_000  # APPLE teacher: steps before the identity loss
VALIDATION_IMAGES = 5  # APPLE: held out of training
STUDENT_STEPS = 15_000  # APPLE
PSEUDO_TRIPLETS = 100_000  # APPLE: ordered identity pairs kept

PULID_DOUBLE_INTERVAL = 2  # PuLID-FLUX: identity attention after every 2nd double block
PULID_SINGLE_INTERVAL = 4  # PuLID-FLUX: and after every 4th single block
PULID_TOKENS = 32  # PuLID-FLUX: identity tokens
PULID_TOKEN_DIM = 2048  # PuLID-FLUX: width of one identity token
PULID_HEADS = 16  # PuLID-FLUX: heads of the identity attention
PULID_HEAD_DIM = 128  # PuLID-FLUX

# APPLE adapts these linear maps of FLUX, and runs the adapters on the condition branch alone.
LORA_TARGETS = (
    r"x_embedder"
    r"|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)"
)
