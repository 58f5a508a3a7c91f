//! Tokens that end an answer.

use tokenizers::Tokenizer;

/// As chat models write them, whatever their configuration says.
const ENDS: [&str; 6] = ["</s>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"];

/// HyperCLOVA X ends a turn with these; its `<|im_end|>` only ends a block, and the answer may come in the next (specs:
/// hyperclovax, section 6).
const TURN_ENDS: [&str; 2] = ["<|endofturn|>", "<|stop|>"];
const BLOCK_END: &str = "<|im_end|>";

/// Ids of the tokens that end an answer, each once: those that the checkpoint names, in its order, then those that its
/// tokenizer has.
pub fn stops(tokenizer: &Tokenizer, configured: &[u32]) -> Vec<u32> {
    let turns: Vec<u32> = TURN_ENDS.iter().filter_map(|t| tokenizer.token_to_id(t)).collect();
    let blocks = tokenizer.token_to_id(BLOCK_END).filter(|_| !turns.is_empty());
    // The first end is written where an utterance was cut off, so a turn's own comes first where blocks have another.
    let known = ENDS.iter().filter_map(|t| tokenizer.token_to_id(t));
    let mut all = Vec::new();
    for id in turns.iter().copied().chain(configured.iter().copied()).chain(known) {
        if Some(id) != blocks && !all.contains(&id) {
            all.push(id);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::wordlevel::WordLevelBuilder;

    fn tokenizer(words: &[&str]) -> Tokenizer {
        let vocab = words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), i as u32)).collect();
        Tokenizer::new(WordLevelBuilder::new().vocab(vocab).unk_token("a".into()).build().unwrap())
    }

    #[test]
    fn a_block_ends_no_turn_where_turns_have_ends_of_their_own() {
        let seed = tokenizer(&["a", "<|im_start|>", "<|im_end|>", "<|endofturn|>", "<|stop|>", "<|endoftext|>"]);
        assert_eq!(stops(&seed, &[2, 5]), [3, 4, 5], "an end of a block that the configuration names is none either");
        let ends = stops(&seed, &[]);
        let count = |stream: &[u32]| stream.iter().filter(|id| ends.contains(id)).count();
        assert_eq!(count(&[0, 0, 2, 3]), 1, "an answer stops once, at the end of its turn");
        assert_eq!(count(&[0, 2, 0, 1, 0]), 0, "a block of reasoning goes on");
        let chatml = tokenizer(&["a", "<|im_start|>", "<|im_end|>", "</s>"]);
        assert_eq!(stops(&chatml, &[3]), [3, 2], "the configuration's end first");
    }
}
