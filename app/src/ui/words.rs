//! The window's own words, in the languages of the coach.

use crate::settings::Settings;
use spotter_datasets::synthetic::phrases::Lang;
use spotter_vision::source::Trouble;

/// The words of a language.
pub(super) fn pick(lang: Lang, en: &'static str, ko: &'static str) -> &'static str {
    match lang {
        Lang::En => en,
        Lang::Ko => ko,
    }
}

/// The language of the window.
pub(super) fn language(settings: &Settings) -> Lang {
    settings.lang.spoken()
}

/// What is wrong with the camera, and what to do about it.
pub(super) fn trouble(lang: Lang, trouble: Option<Trouble>) -> (&'static str, &'static str) {
    let say = |en, ko| pick(lang, en, ko);
    match trouble {
        Some(Trouble::Missing) => (
            say("I can't find the camera.", "카메라를 찾을 수 없어요."),
            say("Plug one in, or choose another in the settings.", "카메라를 연결하거나 설정에서 다른 것을 고르세요."),
        ),
        Some(Trouble::Busy) => (
            say("Another program is using the camera.", "다른 프로그램이 카메라를 쓰고 있어요."),
            say("Close that program, and I take over.", "그 프로그램을 닫으면 바로 이어서 할게요."),
        ),
        Some(Trouble::Forbidden) => (
            say("I am not allowed to use the camera.", "카메라를 쓸 권한이 없어요."),
            say("Allow it in the settings of the system.", "시스템 설정에서 허용해 주세요."),
        ),
        Some(Trouble::Silent) => (
            say("The camera does not answer.", "카메라가 응답하지 않아요."),
            say("Unplug it and plug it in again.", "뽑았다가 다시 연결해 주세요."),
        ),
        Some(Trouble::Unplugged) => (
            say("The camera is gone.", "카메라 연결이 끊겼어요."),
            say("Plug it in again, and we go on.", "다시 연결하면 이어서 할게요."),
        ),
        Some(Trouble::Frozen) => (
            say("The camera stopped sending pictures.", "카메라 화면이 멈췄어요."),
            say("Check its cable.", "케이블을 확인해 주세요."),
        ),
        Some(Trouble::Unreadable) => (
            say("I can't read the pictures of this camera.", "이 카메라의 영상을 읽을 수 없어요."),
            say("Try another cable, or another camera.", "다른 케이블이나 다른 카메라를 써 보세요."),
        ),
        Some(Trouble::Other) | None => {
            (say("There is no picture.", "화면이 없어요."), say("I keep trying.", "계속 시도할게요."))
        }
    }
}

/// That nothing can be heard here.
pub(super) fn silent(lang: Lang) -> &'static str {
    pick(lang, "no sound here: read what I say", "소리를 낼 수 없어요. 화면의 글을 봐 주세요.")
}

/// `n` repetitions.
pub(super) fn reps(lang: Lang, n: u32) -> String {
    match (lang, n) {
        (Lang::En, 1) => "1 rep".to_owned(),
        (Lang::En, n) => format!("{n} reps"),
        (Lang::Ko, n) => format!("{n}회"),
    }
}

/// How often something happened.
pub(super) fn times(lang: Lang, n: usize) -> String {
    match (lang, n) {
        (Lang::En, 1) => "once".to_owned(),
        (Lang::En, 2) => "twice".to_owned(),
        (Lang::En, n) => format!("{n} times"),
        (Lang::Ko, n) => format!("{n}번"),
    }
}

/// A name in front of a line.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_has_words_of_its_own_in_both_languages() {
        let all = [
            Trouble::Missing,
            Trouble::Busy,
            Trouble::Forbidden,
            Trouble::Silent,
            Trouble::Unplugged,
            Trouble::Frozen,
            Trouble::Unreadable,
            Trouble::Other,
        ];
        for lang in [Lang::En, Lang::Ko] {
            let mut said: Vec<&str> = all.iter().map(|t| trouble(lang, Some(*t)).0).collect();
            said.sort_unstable();
            said.dedup();
            assert_eq!(said.len(), all.len());
        }
    }

    #[test]
    fn numbers_agree_with_their_words() {
        assert_eq!([reps(Lang::En, 1), reps(Lang::En, 2), reps(Lang::Ko, 3)], ["1 rep", "2 reps", "3회"]);
        assert_eq!([times(Lang::En, 1), times(Lang::En, 3), times(Lang::Ko, 1)], ["once", "3 times", "1번"]);
    }
}
