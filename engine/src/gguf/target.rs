//! How the weights of a file are packed.

use candle_core::quantized::GgmlDType;

/// What weights are packed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the file format")]
pub enum Target {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Q4_0, Self::Q4_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K, Self::F16, Self::F32];

    /// As programs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    pub(super) fn dtype(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }

    /// `general.file_type`.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q4K => 14,
            Self::Q5K => 16,
            Self::Q6K => 18,
        }
    }

    /// How a tensor is packed: norms and biases stay numbers, what makes the logits gets six bits at least, and rows that do not go into
    /// blocks of 256 get the next type that has blocks of 32.
    fn of(self, shape: &[usize], head: bool) -> GgmlDType {
        let &[_, width] = shape else { return GgmlDType::F32 };
        let wanted = match self {
            Self::F32 | Self::F16 | Self::Q8_0 => self.dtype(),
            _ if head => GgmlDType::Q6K,
            _ => self.dtype(),
        };
        match wanted {
            GgmlDType::F32 => wanted,
            _ if !width.is_multiple_of(32) => GgmlDType::F16,
            GgmlDType::Q4K if !width.is_multiple_of(256) => GgmlDType::Q5_0,
            GgmlDType::Q5K if !width.is_multiple_of(256) => GgmlDType::Q5_1,
            GgmlDType::Q6K if !width.is_multiple_of(256) => GgmlDType::Q8_0,
            wanted => wanted,
        }
    }
}

/// How weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Those of the decoder.
    pub decoder: Target,
    /// Those of tower and projector, where there are some.
    pub mmproj: Target,
}

impl From<Target> for Wanted {
    /// What sees keeps its precision, as usual.
    fn from(decoder: Target) -> Self {
        Self { decoder, mmproj: if decoder == Target::F32 { decoder } else { Target::F16 } }
    }
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A decoder's; the logits come from the embedding where it is tied.
    Decoder { tied: bool },
    /// A tower's or a projector's: positions stay numbers, and patches are cut in half precision at most.
    Mmproj,
}

impl Rule {
    pub(super) fn dtype(self, name: &str, shape: &[usize], target: Target) -> GgmlDType {
        match self {
            Self::Decoder { tied } => {
                target.of(shape, name == if tied { "token_embd.weight" } else { "output.weight" })
            }
            Self::Mmproj if name == "v.position_embd.weight" => GgmlDType::F32,
            Self::Mmproj if shape.len() == 4 && target != Target::F32 => GgmlDType::F16,
            Self::Mmproj => target.of(shape, false),
        }
    }
}
