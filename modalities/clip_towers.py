"""The two towers of an open_clip model: each patch and each word through the tower's own head.

A token is what the tower's own pooling and projection make of that place alone. Where pooling picks
one token (class token, end of text) or takes the mean, that is the final norm and the projection of
each token, as in FILIP (Yao et al. 2022, arXiv:2111.07783). Where it attends (SigLIP, CoCa,
ModifiedResNet) attention to one place alone is that place's value, as in MaskCLIP (Zhou, Loy and
Dai 2022, arXiv:2112.01071). So tokens lie in the space that the pooled vectors were trained in.

Knows open_clip's modules; no tokenizer, no picture file, no retrieval.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modalities.timm_backbones import channels_last, lattice


class Towers:
    """What is asked of an open_clip model (CLIP, CustomTextCLIP or CoCa), whatever its towers are.

    Raises ValueError where its picture tower has no patches that can be told apart, or where its
    pooling gives no single vector.
    """

    def __init__(self, model: Any) -> None:
        from open_clip.hf_model import HFTextEncoder
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.timm_model import TimmModel
        from open_clip.transformer import VisionTransformer

        self.visual = model.visual
        self.text = getattr(model, "text", model)  # CLIP keeps its text tower's parts itself
        self.hf_text = isinstance(self.text, HFTextEncoder)
        kinds: dict[type[Any], Any] = {
            VisionTransformer: _vit,
            ModifiedResNet: _resnet,
            TimmModel: _timm,
        }
        found = [read for kind, read in kinds.items() if isinstance(self.visual, kind)]
        if not found:
            raise ValueError(
                f"the picture tower is a {type(self.visual).__name__}: patch tokens can be had of "
                f"{', '.join(kind.__name__ for kind in kinds)}"
            )
        self._read = found[0]
        _no_dropped_patches(self.visual)
        _check_pooling(self.visual, self.text)

    def pictures(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
        """Normalised pixels (B, 3, H, W) -> patches (B, rows * cols, E) row by row, (rows, cols),
        and pooled (B, E), which is what `encode_image` gives before normalisation."""
        patches, shape, pooled = self._read(self.visual, pixels)
        return patches, shape, pooled

    def texts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B, L) -> words (B, L, E) and pooled (B, E), which is what `encode_text` gives before
        normalisation. L may be less than the context where `whole_context` is False."""
        return _hf_words(self.text, ids) if self.hf_text else _words(self.text, ids)

    @property
    def causal(self) -> bool:
        """Whether a word sees only what stands before it."""
        return not self.hf_text and self.text.attn_mask is not None

    @property
    def whole_context(self) -> bool:
        """Whether padding changes the pooled vector or the words, so that texts must be padded to
        the whole context, as they were in training."""
        if self.hf_text:
            from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, MeanPooler

            masked = (MeanPooler, ClsPooler, ClsLastHiddenStatePooler)
            return not isinstance(self.text.pooler, masked)
        pooling = _pooling(self.text)
        return not self.causal or _class_token(self.text) is not None or pooling == "last"


def _vit(tower: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
    x = tower.transformer(tower._embeds(pixels))  # (B, 1 + N, C), the class token first
    pooled = tower._pool(x)[0]
    patches = x[:, 1:]
    if tower.attn_pool is not None:
        pool = tower.attn_pool
        values = pool.ln_k(patches).flatten(0, 1)[:, None]  # (B * N, 1, C): one key for each query
        query = pool.ln_q(pool.query[:1])[None].expand(len(values), -1, -1)
        out = pool.attn(query, values, values, need_weights=False)[0]
        patches = out.view(*patches.shape[:2], -1)
    patches = tower.ln_post(patches)
    if tower.proj is not None:
        patches, pooled = patches @ tower.proj, pooled @ tower.proj
    rows, cols = tower.grid_size
    return patches, (int(rows), int(cols)), pooled


def _resnet(tower: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
    x = tower.stem(pixels)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    pool = tower.attnpool
    places = x.flatten(2).transpose(1, 2) + pool.positional_embedding[1:].to(x.dtype)  # (B, N, C)
    return pool.c_proj(pool.v_proj(places)), (x.shape[2], x.shape[3]), pool(x)


def _timm(tower: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
    features = tower.trunk.forward_features(pixels)
    pooled = tower.head(tower.trunk.forward_head(features))
    patches, shape = lattice(tower.trunk, features)  # (B, N, C)
    batch, count, width = patches.shape
    flat = patches.reshape(batch * count, width)
    # One place as a picture of its own: alone in its feature map, or in the place of every token.
    if features.dim() == 4:
        alone = flat[:, None, None] if channels_last(tower.trunk) else flat[:, :, None, None]
    else:
        alone = flat[:, None].expand(-1, 1 + getattr(tower.trunk, "num_prefix_tokens", 0), -1)
    out = tower.head(tower.trunk.forward_head(alone))
    return out.view(batch, count, -1), shape, pooled


def _words(tower: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    from open_clip.transformer import text_global_pool

    if _class_token(tower) is not None or getattr(tower, "use_pad_mask", False):
        x, mask = tower._embeds(ids)
    else:
        dtype = tower.transformer.get_cast_dtype()
        length = ids.shape[1]
        x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
    x = tower.ln_final(tower.transformer(x, attn_mask=mask))  # (B, L, C), a class token at the end
    if _class_token(tower) is not None:
        x, pooled = x[:, :-1], x[:, -1]
    else:
        end = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
        pooled = text_global_pool(x, ids, _pooling(tower), eos_token_id=end)
    project = tower.text_projection
    if isinstance(project, nn.Linear):
        return project(x), project(pooled)
    return (x, pooled) if project is None else (x @ project, pooled @ project)


def _hf_words(tower: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    attend = (ids != tower.config.pad_token_id).long()
    out = tower.transformer(input_ids=ids, attention_mask=attend)
    return tower.proj(out.last_hidden_state), tower.proj(tower.pooler(out, attend))


def _class_token(text: Any) -> Any:
    return getattr(text, "cls_emb", None)


def _pooling(text: Any) -> str:
    """CLIP and TextTransformer call it differently."""
    return str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")))


def _no_dropped_patches(visual: Any) -> None:
    """Every patch has its place: patch dropout, which only acts in training, is taken out."""
    for module in visual.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "PatchDropout":
                setattr(module, name, nn.Identity())


def _check_pooling(visual: Any, text: Any) -> None:
    kind = getattr(visual, "attn_pool_type", "")
    if kind:
        raise ValueError(f"the picture tower pools by {kind!r}, which open_clip has not finished")
    if getattr(visual, "pool_type", "tok") == "none" and getattr(visual, "attn_pool", None) is None:
        raise ValueError(
            "the picture tower does not pool (pool_type 'none'): no vector for a picture"
        )
    head = getattr(getattr(visual, "head", None), "pool", None)
    if type(head).__name__ == "AttentionPool2d":
        raise ValueError(
            "the picture tower pools with absolute positions (timm_pool 'abs_attn'), so a patch "
            "means nothing alone: no patch tokens"
        )
    if _pooling(text) == "none":
        raise ValueError("the text tower does not pool (pool_type 'none'): no vector for a text")
