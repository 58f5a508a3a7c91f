use super::*;
use rand::SeedableRng;

fn with_numbers() -> Vec<Meaning> {
    let fill = |meaning| match meaning {
        Meaning::Count(e, _) => Meaning::Count(e, 12),
        Meaning::Held(e, _) => Meaning::Held(e, 20),
        other => other,
    };
    meanings().into_iter().map(fill).collect()
}

#[test]
fn every_sentence_is_recovered_from_its_words() {
    for lang in [Lang::En, Lang::Ko] {
        for meaning in with_numbers() {
            for (template, text) in meaning.templates(lang).iter().zip(meaning.sentences(lang)) {
                let said = classify(&text, lang);
                let exercise = meaning.exercise().filter(|_| template.contains("{x}"));
                let expected =
                    Said { exercise, count: meaning.count(), mistake: meaning.mistake(), kind: meaning.kind() };
                assert_eq!(said, expected, "{text:?}");
            }
        }
    }
}

#[test]
fn each_meaning_has_several_short_phrasings() {
    for lang in [Lang::En, Lang::Ko] {
        for meaning in with_numbers() {
            let sentences = meaning.sentences(lang);
            let fixed = matches!(meaning, Meaning::First(_) | Meaning::Next(_) | Meaning::End);
            assert!(fixed || sentences.len() >= 4, "{meaning:?}");
            for text in sentences {
                assert!(text.split(' ').count() <= 9, "{text:?} is long");
                assert!(!text.contains(['{', '}']), "{text:?} has an open slot");
            }
        }
    }
}

#[test]
fn other_words_around_a_known_sentence_do_not_matter_much() {
    let said = classify("ok push your knees OUT", Lang::En);
    assert_eq!((said.kind, said.mistake), (SaidKind::Correction, Some(Mistake::KneesIn)));
    let said = classify("11 and keep going", Lang::En);
    assert_eq!((said.kind, said.count), (SaidKind::Count, Some(11)));
    assert_eq!(classify("side lunges, let's go", Lang::En).exercise, Some(Exercise::SideLunge));
    assert_eq!(classify("이제 런지 해볼게요", Lang::Ko).exercise, Some(Exercise::Lunge));
    assert_eq!(classify("7개", Lang::Ko).count, Some(7));
}

#[test]
fn foreign_text_is_other() {
    for text in ["", "   ", "the weather in Paris", "???", "스파게티", "99999999999999999999"] {
        assert_eq!(classify(text, Lang::En).kind, SaidKind::Other, "{text:?}");
    }
    assert_eq!(named("squats and lunges", Lang::En).len(), 2);
    assert_eq!(classify("squats and lunges", Lang::En).exercise, None);
}

#[test]
fn the_vocabulary_stays_small() {
    for (lang, most) in [(Lang::En, 350), (Lang::Ko, 450)] {
        let words: HashSet<String> = corpus(lang, 1).iter().flat_map(|text| words(text)).collect();
        assert!(words.len() < most, "{} words in {lang:?}", words.len());
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    assert!(!Meaning::Closing.say(Lang::Ko, &mut rng).is_empty());
}
