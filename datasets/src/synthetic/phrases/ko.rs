//! Korean sentences, in the polite form.

use super::{Exercise, Mistake, Range};

pub(super) const FIRST: &str = "첫 번째 운동, {x}!";
pub(super) const NEXT: &str = "다음 운동, {x}!";
pub(super) const END: &str = "오늘 운동이 끝났어요!";

pub(super) const START: &[&str] = &[
    "{x}, 시작해요.",
    "좋아요, {x} 가볼게요.",
    "{x}, 천천히 시작해요.",
    "이제 {x} 해볼게요.",
    "{x} 시작하셨네요.",
    "{x}, 리듬을 찾아봐요.",
];

pub(super) const COUNT: &[&str] =
    &["{n}개.", "{n}개예요.", "{n}개, 계속해요.", "{n}개 했어요.", "벌써 {n}개예요.", "{n}개, 좋아요.", "{x} {n}개."];

pub(super) const HOLD_COUNT: &[&str] =
    &["{n}초.", "{n}초 지났어요.", "{n}초, 계속 버텨요.", "벌써 {n}초예요.", "{n}초, 힘내요."];

pub(super) const PRAISE: &[&str] = &[
    "좋아요, 그대로 계속해요.",
    "리듬이 좋아요.",
    "자세가 아주 좋아요.",
    "멋져요, 힘이 느껴져요.",
    "훌륭해요, 바로 그거예요.",
    "잘하고 있어요.",
    "{x} 잘하고 있어요.",
    "{x} 자세가 멋져요.",
];

pub(super) const HOLD_PRAISE: &[&str] = &[
    "그대로 버텨요, 숨 쉬어요.",
    "계속 버텨요, 단단하게.",
    "숨 쉬면서 유지해요.",
    "그 자세 유지해요.",
    "{x} 그대로 유지해요.",
];

pub(super) const CLOSING: &[&str] = &[
    "수고했어요, 한 세트 끝났어요.",
    "세트 완료, 몸을 풀어줘요.",
    "이제 쉬어요, 정말 잘했어요.",
    "여기까지, 숨을 골라요.",
    "좋은 세트였어요, 잠깐 쉬어요.",
];

/// Other ways to name an exercise, beside its plain name. Spaces do not matter.
pub(super) fn aliases(exercise: Exercise) -> &'static [&'static str] {
    match exercise {
        Exercise::Squat => &["스쿼트"],
        Exercise::JumpingJack => &["점핑 잭", "팔벌려뛰기"],
        Exercise::HighKnees => &["하이 니", "제자리 무릎 들기"],
        Exercise::Lunge => &["런지"],
        Exercise::SideLunge => &["사이드 런지"],
        Exercise::Boxing => &["복싱"],
        Exercise::ToeTouch => &["발끝 터치"],
        Exercise::ArmCircles => &["팔 돌리기"],
        Exercise::SideBend => &["옆구리 굽히기"],
        Exercise::HurdleStep => &["허들 스텝"],
        Exercise::SitToStand => &["앉았다 일어서기"],
        Exercise::LegRaise => &["다리 들기", "레그 레이즈"],
        Exercise::LateralRaise => &["래터럴 레이즈", "사이드 레터럴 레이즈"],
        Exercise::ShoulderRotation => &["어깨 돌리기", "어깨 회전"],
        Exercise::PushUp => &["푸시업", "팔굽혀펴기"],
        Exercise::Plank => &["플랭크"],
        Exercise::MountainClimber => &["마운틴 클라이머"],
        Exercise::SitUp => &["윗몸 일으키기", "싯업"],
    }
}

/// What to say about half the range: each exercise has its own way to be incomplete.
fn half_range(exercise: Exercise) -> &'static [&'static str] {
    match exercise {
        Exercise::Squat => &[
            "더 깊이 앉아요.",
            "엉덩이를 더 아래로 낮춰요.",
            "무릎보다 낮게 앉아요.",
            "조금 더 깊게 내려가요.",
            "더 내려갈 수 있어요.",
        ],
        Exercise::JumpingJack => &[
            "팔을 머리 위까지 올려요.",
            "발을 더 넓게 벌려요.",
            "더 크게 뛰어요.",
            "손이 머리 위에서 만나게 해요.",
            "팔다리를 더 활짝 벌려요.",
        ],
        Exercise::HighKnees => &[
            "무릎을 더 높이 올려요.",
            "무릎을 골반 높이까지 올려요.",
            "무릎을 더 끌어올려요.",
            "더 높이, 무릎을 차올려요.",
            "양 무릎을 더 높게 들어요.",
        ],
        Exercise::Lunge => &[
            "뒤쪽 무릎을 더 낮춰요.",
            "한 걸음마다 더 깊이 내려가요.",
            "뒷무릎을 바닥 가까이 내려요.",
            "두 다리를 더 깊이 굽혀요.",
            "앞으로 더 깊게 내려가요.",
        ],
        Exercise::SideLunge => &[
            "옆으로 더 깊이 앉아요.",
            "더 넓게 딛고 내려가요.",
            "옆으로 엉덩이를 더 낮춰요.",
            "옆다리를 더 깊이 굽혀요.",
            "옆으로 더 넓게 내려가요.",
        ],
        Exercise::Boxing => &[
            "주먹을 끝까지 뻗어요.",
            "펀치를 더 멀리 뻗어요.",
            "앞으로 더 길게 쳐요.",
            "펀치마다 끝까지 밀어요.",
            "주먹을 더 멀리 던져요.",
        ],
        Exercise::ToeTouch => &[
            "손을 발끝까지 내려요.",
            "더 숙여서 발끝을 잡아요.",
            "손을 바닥에 더 가까이 가져가요.",
            "발까지 손을 뻗어봐요.",
            "조금 더 숙여요.",
        ],
        Exercise::ArmCircles => &[
            "원을 더 크게 그려요.",
            "팔로 더 큰 원을 그려요.",
            "더 넓게 돌려요.",
            "원을 끝까지 그려요.",
            "팔을 더 크게 돌려요.",
        ],
        Exercise::SideBend => &[
            "옆으로 더 굽혀요.",
            "옆으로 더 멀리 늘려요.",
            "손을 더 아래로 미끄러뜨려요.",
            "옆구리를 더 길게 늘려요.",
            "머리 위로 더 멀리 넘겨요.",
        ],
        Exercise::HurdleStep => &[
            "발을 더 높이 넘겨요.",
            "더 높은 허들을 넘어요.",
            "딛는 무릎을 더 들어요.",
            "걸음을 더 크게, 발을 높이 들어요.",
            "허들을 넘듯 더 높이 들어요.",
        ],
        Exercise::SitToStand => &[
            "끝까지 일어서요.",
            "매번 완전히 일어서요.",
            "먼저 끝까지 앉아요.",
            "몸을 끝까지 펴고 일어서요.",
            "앉기도 서기도 끝까지 해요.",
        ],
        Exercise::LegRaise => &[
            "다리를 더 높이 올려요.",
            "다리를 더 위로 뻗어요.",
            "다리를 더 멀리 들어올려요.",
            "한쪽 다리를 더 높게 올려요.",
            "다리를 더 차올려요.",
        ],
        Exercise::LateralRaise => &[
            "팔을 어깨 높이까지 올려요.",
            "두 팔을 더 높이 올려요.",
            "손을 어깨 높이까지 올려요.",
            "어깨까지 팔을 들어요.",
            "팔을 옆으로 더 올려요.",
        ],
        Exercise::ShoulderRotation => &[
            "어깨를 더 크게 돌려요.",
            "팔을 바깥으로 더 돌려요.",
            "어깨를 끝까지 돌려요.",
            "어깨를 활짝 열어요.",
            "회전을 더 크게 해요.",
        ],
        Exercise::PushUp => &[
            "가슴을 바닥 가까이 내려요.",
            "팔꿈치를 더 굽혀서 내려가요.",
            "가슴을 더 낮춰요.",
            "바닥까지 더 내려가요.",
            "가슴이 바닥에 닿게 내려요.",
        ],
        Exercise::Plank => &[
            "자세를 완전히 잡아요.",
            "발을 더 뒤로 보내요.",
            "몸을 더 길게 뻗어요.",
            "처음 자세를 다시 잡아요.",
            "머리부터 발뒤꿈치까지 길게 뻗어요.",
        ],
        Exercise::MountainClimber => &[
            "무릎을 가슴 쪽으로 더 당겨요.",
            "무릎을 가슴까지 당겨요.",
            "무릎을 더 깊이 끌어와요.",
            "가슴 가까이 무릎을 당겨요.",
            "무릎을 더 앞으로 당겨요.",
        ],
        Exercise::SitUp => &[
            "끝까지 올라와요.",
            "가슴을 무릎 가까이 올려요.",
            "상체를 더 높이 들어요.",
            "더 말아 올라와요.",
            "바닥에서 더 높이 올라와요.",
        ],
    }
}

/// Sentences that correct `mistake` in `exercise`.
pub(super) fn correction(exercise: Exercise, mistake: Mistake) -> &'static [&'static str] {
    match mistake {
        Mistake::HalfRange => half_range(exercise),
        Mistake::KneesIn => &[
            "무릎을 바깥으로 밀어요.",
            "무릎이 안으로 모이고 있어요.",
            "무릎이 모이지 않게 해요.",
            "무릎과 발끝 방향을 맞춰요.",
            "무릎 사이를 벌려요.",
        ],
        Mistake::TrunkLean => &[
            "가슴을 펴고 허리를 세워요.",
            "상체를 곧게 세워요.",
            "몸이 기울고 있어요.",
            "기울이지 말고 똑바로 서요.",
            "등을 곧게 펴요.",
        ],
        Mistake::Uneven => &[
            "양쪽을 똑같이 움직여요.",
            "왼쪽과 오른쪽을 맞춰요.",
            "한쪽이 덜 움직이고 있어요.",
            "좌우 균형을 맞춰요.",
            "양쪽을 고르게 해요.",
        ],
        Mistake::TooFast => &[
            "조금 더 천천히 해요.",
            "속도를 줄여요.",
            "너무 빨라요.",
            "하나하나 천천히 조절해요.",
            "서두르지 말고 부드럽게 해요.",
        ],
        Mistake::ArmsBent => {
            &["팔을 곧게 펴요.", "팔꿈치를 펴요.", "팔꿈치가 굽었어요.", "팔을 쭉 펴요.", "팔꿈치를 굽히지 마세요."]
        }
        Mistake::HipsSag => &[
            "허리가 처지지 않게 해요.",
            "엉덩이가 처지고 있어요.",
            "엉덩이를 들고 배에 힘을 줘요.",
            "배에 힘을 더 줘요.",
            "처진 허리를 올려요.",
        ],
        Mistake::HipsHigh => &[
            "엉덩이를 조금 내려요.",
            "엉덩이가 너무 높아요.",
            "엉덩이를 내려 일직선을 만들어요.",
            "골반을 아래로 내려요.",
            "엉덩이가 솟았어요.",
        ],
        Mistake::KneesBent => {
            &["다리를 곧게 펴요.", "무릎을 펴요.", "무릎이 굽었어요.", "다리를 쭉 펴요.", "무릎을 굽히지 마세요."]
        }
    }
}

/// Sentences that confirm that `mistake` is gone; `range` is the kind of range the exercise has.
pub(super) fn fixed(range: Range, mistake: Mistake) -> &'static [&'static str] {
    match (mistake, range) {
        (Mistake::HalfRange, Range::Depth) => &[
            "나아졌어요, 깊이가 충분해요.",
            "맞아요, 깊이가 딱 좋아요.",
            "이제 충분히 깊어요.",
            "고쳤네요, 훨씬 깊어졌어요.",
        ],
        (Mistake::HalfRange, Range::Height) => &[
            "나아졌어요, 높이가 충분해요.",
            "맞아요, 높이가 딱 좋아요.",
            "이제 충분히 높아요.",
            "고쳤네요, 훨씬 높아졌어요.",
        ],
        (Mistake::HalfRange, Range::Reach) => &[
            "나아졌어요, 충분히 뻗고 있어요.",
            "맞아요, 거리가 딱 좋아요.",
            "이제 충분히 멀리 가요.",
            "고쳤네요, 훨씬 멀어졌어요.",
        ],
        (Mistake::HalfRange, Range::Size) => &[
            "나아졌어요, 크기가 충분해요.",
            "맞아요, 크기가 딱 좋아요.",
            "이제 충분히 커요.",
            "고쳤네요, 훨씬 커졌어요.",
        ],
        (Mistake::KneesIn, _) => &[
            "나아졌어요, 무릎이 바깥을 향해요.",
            "맞아요, 무릎 방향이 좋아요.",
            "이제 무릎이 모이지 않아요.",
            "고쳤네요, 무릎이 안정됐어요.",
        ],
        (Mistake::TrunkLean, _) => &[
            "나아졌어요, 상체가 곧아요.",
            "맞아요, 가슴이 펴졌어요.",
            "이제 몸이 똑바로예요.",
            "고쳤네요, 등이 곧게 섰어요.",
        ],
        (Mistake::Uneven, _) => &[
            "나아졌어요, 양쪽이 똑같아요.",
            "맞아요, 좌우가 맞아요.",
            "이제 양쪽이 고르네요.",
            "고쳤네요, 균형이 잡혔어요.",
        ],
        (Mistake::TooFast, _) => &[
            "나아졌어요, 속도가 알맞아요.",
            "맞아요, 그 속도가 좋아요.",
            "이제 빠르지 않아요.",
            "고쳤네요, 잘 조절하고 있어요.",
        ],
        (Mistake::ArmsBent, _) => &[
            "나아졌어요, 팔이 펴졌어요.",
            "맞아요, 팔꿈치가 곧아요.",
            "이제 팔이 쭉 펴졌어요.",
            "고쳤네요, 팔이 길어졌어요.",
        ],
        (Mistake::HipsSag, _) => &[
            "나아졌어요, 허리가 올라왔어요.",
            "맞아요, 배에 힘이 들어갔어요.",
            "이제 허리가 처지지 않아요.",
            "고쳤네요, 엉덩이가 올라왔어요.",
        ],
        (Mistake::HipsHigh, _) => &[
            "나아졌어요, 엉덩이가 내려왔어요.",
            "맞아요, 몸이 일직선이에요.",
            "이제 엉덩이가 높지 않아요.",
            "고쳤네요, 골반이 내려왔어요.",
        ],
        (Mistake::KneesBent, _) => &[
            "나아졌어요, 다리가 펴졌어요.",
            "맞아요, 무릎이 곧아요.",
            "이제 다리가 쭉 펴졌어요.",
            "고쳤네요, 다리가 길어졌어요.",
        ],
    }
}
