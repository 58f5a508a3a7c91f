//! Models by name: those that are known to work here, and any other on the hub.

use crate::hub::{Hub, Name, Wanted};
use serde::Serialize;
use std::path::PathBuf;

/// A model that is known: where it is, under which terms, and what it needs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Known {
    /// What it is called here.
    pub(crate) name: &'static str,
    /// On the hub.
    pub(crate) repository: &'static str,
    /// What may be done with it, as its card says.
    pub(crate) licence: &'static str,
    /// Millions of parameters, as its card says; with its base where it is an adapter.
    pub(crate) millions: u32,
    /// Of the language model: drafters must have the same.
    pub(crate) tokenizer: Tokens,
    /// What it is for.
    pub(crate) role: Role,
    /// A model that it is laid over.
    pub(crate) base: Option<&'static str>,
    /// A vision tower that it does not bring.
    pub(crate) tower: Option<&'static str>,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// It sees and speaks.
    Coach,
    /// A language model by itself; a small one drafts for a coach with its tokenizer.
    Language,
}

/// Families of tokenizers: models of one share their ids, apart from a few at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tokens {
    /// Llama 1 and 2, Vicuna.
    Llama2,
    /// Llama 3.
    Llama3,
    /// Mistral 7B v0.2.
    Mistral,
    /// Qwen 2.
    Qwen2,
    /// HyperCLOVA X SEED; whether all sizes have the same ids is not published, so they are compared at load.
    Seed,
    /// HyperCLOVA X SEED Think.
    SeedThink,
}

const LLAMA2: &str = "Llama 2 Community";
const SEED: &str = "HyperCLOVA X SEED (custom)";

const fn known(
    name: &'static str,
    repository: &'static str,
    licence: &'static str,
    millions: u32,
    tokenizer: Tokens,
    role: Role,
) -> Known {
    Known { name, repository, licence, millions, tokenizer, role, base: None, tower: None }
}

/// The list; coaches first, each followed by what is larger.
pub(crate) const KNOWN: [Known; 16] = [
    known("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", LLAMA2, 7063, Tokens::Llama2, Role::Coach),
    known("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", LLAMA2, 13351, Tokens::Llama2, Role::Coach),
    known("llava-next-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", LLAMA2, 7063, Tokens::Llama2, Role::Coach),
    known(
        "llava-next-mistral-7b",
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "Apache-2.0",
        7567,
        Tokens::Mistral,
        Role::Coach,
    ),
    known(
        "llava-onevision-0.5b",
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "Apache-2.0",
        894,
        Tokens::Qwen2,
        Role::Coach,
    ),
    known(
        "llava-onevision-7b",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "Apache-2.0",
        8030,
        Tokens::Qwen2,
        Role::Coach,
    ),
    known(
        "seed-vision-3b",
        "naver-hyperclovax/HyperCLOVAX-SEED-Vision-Instruct-3B",
        SEED,
        3630,
        Tokens::Seed,
        Role::Coach,
    ),
    Known {
        name: "videollm-online-8b",
        repository: "chenjoya/videollm-online-8b-v1plus",
        licence: "MIT, on Llama 3 Community",
        // The Llama, the tower and the connector.
        millions: 8370,
        tokenizer: Tokens::Llama3,
        role: Role::Coach,
        base: Some("meta-llama/Meta-Llama-3-8B-Instruct"),
        tower: Some("google/siglip-large-patch16-384"),
    },
    known(
        "seed-text-0.5b",
        "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B",
        SEED,
        570,
        Tokens::Seed,
        Role::Language,
    ),
    known(
        "seed-text-1.5b",
        "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-1.5B",
        SEED,
        1500,
        Tokens::Seed,
        Role::Language,
    ),
    known(
        "seed-think-14b",
        "naver-hyperclovax/HyperCLOVAX-SEED-Think-14B",
        SEED,
        14740,
        Tokens::SeedThink,
        Role::Language,
    ),
    known("llama-68m", "JackFram/llama-68m", "Apache-2.0", 68, Tokens::Llama2, Role::Language),
    known("tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Apache-2.0", 1100, Tokens::Llama2, Role::Language),
    known("qwen2-0.5b", "Qwen/Qwen2-0.5B-Instruct", "Apache-2.0", 494, Tokens::Qwen2, Role::Language),
    known("qwen2-1.5b", "Qwen/Qwen2-1.5B-Instruct", "Apache-2.0", 1544, Tokens::Qwen2, Role::Language),
    known("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.2", "Apache-2.0", 7242, Tokens::Mistral, Role::Language),
];

/// A drafter is at most this share of what it drafts for: a larger one takes longer than it saves.
const DRAFTER_SHARE: u32 = 3;

impl Known {
    /// Bytes of its weights in a type of so many bytes.
    pub(crate) fn bytes(&self, each: u64) -> u64 {
        u64::from(self.millions) * 1_000_000 * each
    }

    /// Smaller language models with its tokenizer, the smallest first.
    pub(crate) fn drafters(&self) -> Vec<&'static str> {
        let fits = |other: &&Known| {
            other.role == Role::Language
                && other.tokenizer == self.tokenizer
                && other.base.is_none()
                && other.millions * DRAFTER_SHARE <= self.millions
        };
        let mut all: Vec<&Known> = KNOWN.iter().filter(fits).collect();
        all.sort_by_key(|known| known.millions);
        all.into_iter().map(|known| known.name).collect()
    }

    /// The one of a name, or of a repository.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name || known.repository == name)
    }
}

/// What a name means on the hub: that of the list, or a repository; `@` pins a revision of either.
pub(crate) fn name(text: &str) -> Option<Name> {
    let mut name = Name::parse(text)?;
    if let Some(known) = Known::find(&name.repo) {
        known.repository.clone_into(&mut name.repo);
    }
    // Repositories have owners; anything else is a path or a slip of the pen.
    name.repo.contains('/').then_some(name)
}

/// The folder of a model that was pulled.
pub(crate) fn find(text: &str) -> Option<PathBuf> {
    let hub = Hub::from_env();
    hub.cached(&name(text)?, &Wanted::Folder).map(|pulled| pulled.folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_lead_to_repositories() {
        let mut seen = HashSet::new();
        for known in &KNOWN {
            assert!(seen.insert(known.name) && seen.insert(known.repository), "{}", known.name);
            assert!(!known.name.contains(['/', '@']) && !known.licence.is_empty());
            let found = name(known.name).unwrap();
            assert_eq!((found.repo.as_str(), found.revision), (known.repository, None));
            assert_eq!(name(known.repository).unwrap().repo, known.repository);
        }
        let pinned = name("llava-1.5-7b@abc123").unwrap();
        assert_eq!((pinned.repo.as_str(), pinned.revision.as_deref()), ("llava-hf/llava-1.5-7b-hf", Some("abc123")));
        for wrong in ["llava", "./llava", "a/b@", "a/b@../c", "a/b@c/d", "a/b@c@d"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn drafters_have_the_tokenizer_and_are_small() {
        assert_eq!(Known::find("llava-1.5-7b").unwrap().drafters(), ["llama-68m", "tinyllama-1.1b"]);
        assert_eq!(Known::find("llava-onevision-7b").unwrap().drafters(), ["qwen2-0.5b", "qwen2-1.5b"]);
        assert_eq!(Known::find("seed-vision-3b").unwrap().drafters(), ["seed-text-0.5b"]);
        for alone in ["llava-onevision-0.5b", "videollm-online-8b"] {
            assert!(Known::find(alone).unwrap().drafters().is_empty(), "{alone}");
        }
    }
}
