"""A sentence encoder of 20,000 random weights: real tokenizer, real transformer, no download."""

from __future__ import annotations

import json
import string
from pathlib import Path

DIMENSION = 32


def write_encoder(directory: Path, seed: int = 0, prompts: dict[str, str] | None = None) -> Path:
    """Save the encoder as a sentence-transformers model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(
        directory
    )
    with torch.random.fork_rng():
        set_seed(seed)
        config = BertConfig(
            vocab_size=len(tokens),
            hidden_size=DIMENSION,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            initializer_range=0.2,  # wide, so that different texts lie apart
        )
        BertModel(config).save_pretrained(directory)
    target = directory / "model"
    SentenceTransformer(str(directory), device="cpu").save(str(target), create_model_card=False)
    if prompts is not None:
        file = target / "config_sentence_transformers.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "prompts": prompts}), "utf-8")
    return target
