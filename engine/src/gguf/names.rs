//! Names of tensors: llama.cpp's, and those of the published checkpoints.

use super::Gguf;
use crate::model::plan::Layout;

/// llama.cpp's names, each with that of a checkpoint.
type Table = &'static [(&'static str, &'static str)];

/// The names of a part of a model that has layers.
pub(super) struct Names {
    /// What is not in a layer.
    plain: Table,
    /// What stands before the number of a layer, there and there.
    layers: (&'static str, &'static str),
    /// A layer's parts.
    pub(super) parts: Table,
}

/// A decoder's.
pub(super) const DECODER: Names = Names {
    plain: &[
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    layers: ("blk.", "model.layers."),
    parts: &[
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
};

/// A tower's.
const TOWER: Names = Names {
    plain: &[
        ("v.class_embd", "embeddings.class_embedding"),
        ("v.patch_embd.weight", "embeddings.patch_embedding.weight"),
        ("v.patch_embd.bias", "embeddings.patch_embedding.bias"),
        ("v.position_embd.weight", "embeddings.position_embedding.weight"),
        ("v.pre_ln.weight", "pre_layrnorm.weight"),
        ("v.pre_ln.bias", "pre_layrnorm.bias"),
    ],
    layers: ("v.blk.", "encoder.layers."),
    parts: &[
        ("ln1", "layer_norm1"),
        ("ln2", "layer_norm2"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_out", "self_attn.out_proj"),
        (UP, "mlp.fc1"),
        (DOWN, "mlp.fc2"),
    ],
};

/// Maps of a tower's MLP, which older converters exchanged.
pub(super) const UP: &str = "ffn_up";
pub(super) const DOWN: &str = "ffn_down";

/// A projector's.
const PROJECTOR: Table = &[
    ("mm.0.weight", "linear_1.weight"),
    ("mm.0.bias", "linear_1.bias"),
    ("mm.2.weight", "linear_2.weight"),
    ("mm.2.bias", "linear_2.bias"),
];

/// The token at the end of a row of tiles, as llama.cpp calls it now, and as it did in the files of LLaVA 1.6.
const NEWLINES: [&str; 2] = ["v.image_newline", "model.image_newline"];

/// What the frequencies of a decoder's rotations are divided by.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Names {
    /// llama.cpp's name of a tensor of a checkpoint; nothing where it has none.
    pub(super) fn short(&self, full: &str) -> Option<String> {
        if let Some(short) = of(self.plain, full) {
            return Some(short.to_owned());
        }
        let (layer, rest) = full.strip_prefix(self.layers.1)?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (before, short) = (self.layers.0, of(self.parts, part)?);
        Some(format!("{before}{layer}.{short}.{kind}"))
    }
}

fn of(table: Table, name: &str) -> Option<&'static str> {
    table.iter().find(|(_, full)| *full == name).map(|(short, _)| *short)
}

/// llama.cpp's name of a tensor of tower or projector, whose prefixes in `layout` have no dot at their end.
pub(super) fn seeing(full: &str, layout: &Layout) -> Option<String> {
    if full == layout.newline {
        return NEWLINES.first().map(|name| (*name).to_owned());
    }
    let under = |prefix: &str| full.strip_prefix(prefix)?.strip_prefix('.');
    match under(&layout.projector) {
        Some(rest) => of(PROJECTOR, rest).map(str::to_owned),
        None => TOWER.short(under(&layout.vision)?),
    }
}

/// What a file calls a tensor for which llama.cpp had several names.
pub(super) fn in_file<'a>(name: &'a str, file: &Gguf) -> &'a str {
    let there = |other: &&&str| file.tensors().contains_key(**other);
    if NEWLINES.contains(&name) { NEWLINES.iter().find(there).unwrap_or(&name) } else { name }
}
