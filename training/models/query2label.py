"""Query2Label: a transformer decoder asks a CNN's feature map for one class per query (Liu et al., arXiv 2107.10834).

    F_0 = trunk(x)                             (d_0 channels, h x w positions)
    F   = W F_0 + b, or F_0 where d_0 = d      (the tokens, HW x d)
    M   = encoder(F)                           (F itself without encoder layers)
    E   = decoder(queries; keys M + positions, values M)
    z_c = w_c . E_c + b_c                      (group-wise linear: one vector per class)

With ``latent_dim``, as in MIME's release, z_c = w_c . e_c + b_c, where an MLP of E_c gives mean m and deviation s of a
normal distribution: e_c is the mean of ten draws from it in train mode, and m in eval mode.

The class activation map is that of IGNORE's supplement A.1, eq. (1)-(3):

    Attn_c = softmax(Q_c K^T / sqrt(d_k)),    A_c = 1/d sum_i Attn_c * F_i = Attn_c * mean_i F_i    (on the grid: CAM_c)

where Attn is the mean over the heads of the last decoder layer. F is the CNN's map *after* the input projection and
*before* the encoder: eq. (2) sums over the d channels of "the feature from the CNN-based backbone", which the paragraph
before it defines as the projected one. With an encoder, keys and values are M, not F as the supplement's text has it.
The maps still come from the CNN, whose positions are where things were seen in the image; self-attention may have moved
anything anywhere. The release cannot settle the question, because its model file is missing. At the published size both
are 2048 wide, so there is no projection, and F is the trunk's own map, which is not negative behind a ReLU. A
projection has no such sign: mean_i F_i may be negative where an object is. Where maps matter, give the transformer the
trunk's width.

As in the release, layers normalise after adding, the decoder starts from zeros with the queries added to its attention
queries, and has no self-attention; in train mode the attention's dropout reaches the map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.config.run import ModelConfig
from training.models.backbone import Trunk
from training.models.base import ModelOutput, Network

_TEMPERATURE = 10000.0
_DRAWS = 10


class Query2Label(Network):
    """The model described in the module's docstring.

    Everything but the trunk is the ``head``, which trains at ``optim.head_lr_multiplier`` (release: 1) times the rate.

    Args:
        trunk: Image encoder with ``num_features`` output channels.
        num_classes: C.
        config: Size of the transformer.
    """

    def __init__(self, trunk: Trunk, num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.trunk = trunk.module
        self.embedding_dim = config.hidden_dim
        self.head = _Head(trunk.num_features, num_classes, config)

    def forward(self, images: Tensor) -> ModelOutput:
        """Map normalised images (B, 3, H, W) to logits, class activation maps and the decoder's embeddings."""
        output: ModelOutput = self.head(self.trunk(images))
        return output


def sine_positions(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Compute the fixed encoding of a grid's positions, that of DETR (Carion et al., ECCV 2020).

    With p = 2 pi (row + 1) / height and n = dim / 2, channels 2i and 2i + 1 of the first half are sin and cos of p /
    10000^(2i / n); the second half is the same of the columns.

    Args:
        height, width: Size of the grid.
        dim: Number of channels, a multiple of 4.
        device: Where to compute them; copying them there would make every step wait for the device.

    Returns:
        float32 (height * width, dim), row by row.
    """
    num = dim // 2
    frequencies = _TEMPERATURE ** (-torch.arange(0, num, 2, device=device) / num)
    rows, columns = (_waves(length, frequencies) for length in (height, width))
    grid = [rows[:, None].expand(height, width, num), columns[None].expand(height, width, num)]
    return torch.cat(grid, 2).reshape(height * width, dim)


def _waves(length: int, frequencies: Tensor) -> Tensor:
    angles = 2 * math.pi * torch.arange(1, length + 1, device=frequencies.device)[:, None] / length * frequencies
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class _Head(nn.Module):
    """Feature map (B, d_0, h, w) -> :class:`ModelOutput`."""

    def __init__(self, num_features: int, num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.projection = nn.Identity() if num_features == dim else nn.Conv2d(num_features, dim, 1)
        self.encoder = nn.ModuleList(_EncoderLayer(config) for _ in range(config.num_encoder_layers))
        # Before the first layer the embeddings are zeros, so self-attention would have nothing to exchange.
        attend = [config.decoder_self_attention and place > 0 for place in range(config.num_decoder_layers)]
        self.decoder = nn.ModuleList(_DecoderLayer(config, attend_self) for attend_self in attend)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.randn(num_classes, dim))
        # As nn.Linear would draw them, and as in the release.
        self.bottleneck = _Bottleneck(dim, config.latent_dim) if config.latent_dim else None
        width = config.latent_dim or dim
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(num_classes, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_classes).uniform_(-bound, bound))
        for layers in (self.encoder, self.decoder):
            for parameter in layers.parameters():
                # Matrices only: biases, and the weights of the norms, keep their own start.
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor) -> ModelOutput:
        features = self.projection(features)
        height, width = features.shape[-2:]
        # (B, d, h, w) -> (B, HW, d), row by row, as the positions are.
        tokens = features.flatten(2).transpose(1, 2)
        # Computed in float32; with loop.precision=bf16 the tokens may be bfloat16.
        positions = sine_positions(height, width, tokens.shape[2], tokens.device).to(tokens.dtype)
        memory = tokens
        for layer in self.encoder:
            memory = layer(memory, positions)
        queries = self.queries.expand(len(tokens), -1, -1)
        embeddings = torch.zeros_like(queries)
        # Only the last layer returns its attention, because computing it rules out the fused kernel.
        for layer in self.decoder:
            embeddings, attention = layer(embeddings, queries, memory, positions, layer is self.decoder[-1])
        embeddings = self.norm(embeddings)
        read, latents = (embeddings, None) if self.bottleneck is None else self.bottleneck(embeddings)
        # (B, C, d) times (C, d): each class has its own vector, unlike in a linear layer.
        logits = (read * self.weight).sum(2) + self.bias
        # eq. (2): the mean over the d channels of the projected map, weighted by the attention of each class.
        cams = attention * tokens.mean(2)[:, None]
        return ModelOutput(logits, cams.unflatten(2, (height, width)), embeddings, latents)


class _Bottleneck(nn.Module):
    """Embeddings (B, C, d) -> latent vectors (B, C, l), and mean and log deviation of their distribution."""

    def __init__(self, dim: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 2 * latent_dim))

    def forward(self, embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mean, statistic = self.layers(embeddings).chunk(2, -1)
        log_std = (statistic / 2).clamp(-6, 6)  # as released
        if not self.training:
            return mean, (mean, log_std)
        # The mean of several normal draws is one draw with a smaller deviation.
        drawn = mean + log_std.exp() * torch.randn_like(mean) / math.sqrt(_DRAWS)
        return drawn, (mean, log_std)


def _attention(config: ModelConfig) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(config.hidden_dim, config.num_heads, config.dropout, batch_first=True)


def _feedforward(config: ModelConfig) -> nn.Sequential:
    widen, narrow = (
        nn.Linear(config.hidden_dim, config.feedforward_dim),
        nn.Linear(config.feedforward_dim, config.hidden_dim),
    )
    return nn.Sequential(widen, nn.ReLU(), nn.Dropout(config.dropout), narrow)


class _EncoderLayer(nn.Module):
    """Self-attention of tokens (B, HW, d) -> (B, HW, d); positions are added to queries and keys, not to values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.feedforward = _attention(config), _feedforward(config)
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden_dim), nn.LayerNorm(config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        placed = tokens + positions
        tokens = self.norm1(tokens + self.dropout(self.attention(placed, placed, tokens, need_weights=False)[0]))
        normed: Tensor = self.norm2(tokens + self.dropout(self.feedforward(tokens)))
        return normed


class _DecoderLayer(nn.Module):
    """Cross-attention of classes to the image.

    Maps embeddings (B, C, d) to new ones and, if requested, the attention (B, C, HW), the mean over its heads.
    """

    def __init__(self, config: ModelConfig, attend_self: bool) -> None:
        super().__init__()
        self.self_attention = _attention(config) if attend_self else None
        self.self_norm = nn.LayerNorm(config.hidden_dim) if attend_self else None
        self.attention, self.feedforward = _attention(config), _feedforward(config)
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden_dim), nn.LayerNorm(config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, embeddings: Tensor, queries: Tensor, memory: Tensor, positions: Tensor, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.self_attention is not None and self.self_norm is not None:
            asking = embeddings + queries
            seen, _ = self.self_attention(asking, asking, embeddings, need_weights=False)
            embeddings = self.self_norm(embeddings + self.dropout(seen))
        seen, attention = self.attention(embeddings + queries, memory + positions, memory, need_weights=need_weights)
        embeddings = self.norm1(embeddings + self.dropout(seen))
        return self.norm2(embeddings + self.dropout(self.feedforward(embeddings))), attention
