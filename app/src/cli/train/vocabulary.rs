//! The tokenizer of the coach: byte-level pairs learnt from everything the coach can say.

use anyhow::{Result, anyhow};
use spotter_datasets::synthetic::phrases::{Lang, corpus};
use spotter_engine::coach::manifest::{Manifest, Speaking};
use std::path::Path;
use tokenizers::{
    AddedToken, TokenizerBuilder, TokenizerImpl,
    decoders::byte_level::ByteLevel as Decoder,
    models::bpe::{BPE, BpeTrainerBuilder},
    normalizers::NFC,
    pre_tokenizers::byte_level::ByteLevel,
    processors::byte_level::ByteLevel as Processor,
};

/// Highest number that is counted in the corpus.
const MAX_COUNT: u32 = 60;

/// Learns at most `size` tokens and writes `tokenizer.json`.
pub(super) fn learn(manifest: &Manifest, size: usize, path: &Path) -> Result<()> {
    let mut special = vec!["<s>".to_owned()];
    if let Speaking::Actions { next, feedback, end } = &manifest.speaking {
        special.extend([next.clone(), feedback.clone(), end.clone()]);
    }
    let special: Vec<AddedToken> = special.into_iter().map(|t| AddedToken::from(t, true)).collect();
    let mut lines: Vec<String> = [Lang::En, Lang::Ko].into_iter().flat_map(|lang| corpus(lang, MAX_COUNT)).collect();
    for prompt in [&manifest.prompt.en, &manifest.prompt.ko, &manifest.prompt.en_unnamed, &manifest.prompt.ko_unnamed] {
        lines.push(prompt.clone());
    }
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(size)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.clone())
        .build();
    let wrap = |e: tokenizers::Error| anyhow!("tokenizer: {e}");
    let mut tokenizer: TokenizerImpl<BPE, NFC, ByteLevel, Processor, Decoder> = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(Processor::default()))
        .with_decoder(Some(Decoder::default()))
        .build()
        .map_err(wrap)?;
    tokenizer.train(&mut trainer, lines.into_iter()).map_err(wrap)?;
    tokenizer.save(path, true).map_err(wrap)?;
    Ok(())
}
