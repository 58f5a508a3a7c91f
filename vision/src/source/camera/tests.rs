use super::{
    device::{choose, decode, explain},
    *,
};
use nokhwa::{
    Buffer,
    utils::{CameraFormat, FrameFormat, Resolution},
};

#[test]
fn a_camera_that_is_not_there_is_an_error_in_time() {
    let start = Instant::now();
    let error = CameraSource::open(250, CameraOptions::default()).map(drop).expect_err("no camera 250");
    assert!(error.to_string().starts_with("camera 250: there is no camera 250"), "{error}");
    assert_eq!(error.trouble(), Some(Trouble::Missing));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(list().is_ok());
}

#[test]
fn the_nearest_format_is_chosen() {
    let f = CameraFormat::new_from;
    let (mjpeg, yuyv, nv12) = (FrameFormat::MJPEG, FrameFormat::YUYV, FrameFormat::NV12);
    let chosen = |offered: &[CameraFormat]| choose(offered, CameraOptions::default());
    assert_eq!(chosen(&[f(640, 480, yuyv, 30), f(640, 480, mjpeg, 30)]), Some(f(640, 480, mjpeg, 30)));
    assert_eq!(chosen(&[f(640, 480, yuyv, 2), f(1280, 720, mjpeg, 30)]), Some(f(1280, 720, mjpeg, 30)));
    assert_eq!(chosen(&[f(640, 480, nv12, 30), f(320, 240, mjpeg, 30)]), Some(f(640, 480, nv12, 30)));
    assert_eq!(chosen(&[f(640, 480, FrameFormat::GRAY, 30)]), None);
    let large = CameraOptions { width: 1280, height: 720, ..CameraOptions::default() };
    let offered = [f(640, 480, mjpeg, 30), f(1280, 720, mjpeg, 30), f(1920, 1080, mjpeg, 30)];
    assert_eq!(choose(&offered, large), Some(offered[1]));
}

#[test]
fn errors_say_what_to_do() {
    for (text, trouble, words) in [
        ("Could not open: Device or resource busy (os error 16)", Trouble::Busy, "in use by another program"),
        ("Could not open: Permission denied (os error 13)", Trouble::Forbidden, "group `video`"),
        ("Could not open: No such device (os error 19)", Trouble::Missing, "plug one in"),
        ("Could not open: a riddle", Trouble::Other, "a riddle"),
    ] {
        let (found, told) = explain(0, text);
        assert!(found == trouble && told.contains(words), "{text}: {found:?}, {told}");
    }
}

/// Colours as a camera sends them (BT.601): luma and chroma of a 16 x 16 picture, upper half red, lower half blue.
const RED: [u8; 3] = [81, 90, 240];
const BLUE: [u8; 3] = [41, 240, 110];
const SIDE: usize = 16;

fn halves(picture: Option<Picture>) {
    let Some((width, height, rgb)) = picture else { panic!("a picture") };
    assert_eq!((width, height, rgb.len()), (SIDE, SIDE, SIDE * SIDE * 3));
    for (row, expected) in [(2, [255_i32, 0, 0]), (13, [0, 0, 255])] {
        for column in [1, 8, 14] {
            let at = (row * SIDE + column) * 3;
            let got = &rgb[at..at + 3];
            let off = got.iter().zip(expected).map(|(v, e)| (i32::from(*v) - e).abs()).max();
            assert!(off.is_some_and(|off| off <= 12), "row {row}: {got:?}, {expected:?} expected");
        }
    }
}

fn buffer(bytes: &[u8], format: FrameFormat) -> Buffer {
    Buffer::new(Resolution::new(SIDE as u32, SIDE as u32), bytes, format)
}

#[test]
fn yuyv_keeps_its_colours() {
    let half = |[y, u, v]: [u8; 3]| [y, u, y, v].repeat(SIDE * SIDE / 4);
    halves(decode(&buffer(&[half(RED), half(BLUE)].concat(), FrameFormat::YUYV)));
}

#[test]
fn nv12_keeps_its_colours() {
    let luma = [[RED[0]].repeat(SIDE * SIDE / 2), [BLUE[0]].repeat(SIDE * SIDE / 2)].concat();
    let chroma = |[_, u, v]: [u8; 3]| [u, v].repeat(SIDE * SIDE / 8);
    halves(decode(&buffer(&[luma, chroma(RED), chroma(BLUE)].concat(), FrameFormat::NV12)));
}

#[test]
fn mjpeg_keeps_its_colours_and_a_cut_one_is_no_picture() {
    let half = |colour: [u8; 3]| colour.repeat(SIDE * SIDE / 2);
    let rgb = [half([255, 0, 0]), half([0, 0, 255])].concat();
    let mut jpeg = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95);
    let encoded =
        image::ImageEncoder::write_image(encoder, &rgb, SIDE as u32, SIDE as u32, image::ExtendedColorType::Rgb8);
    assert!(encoded.is_ok());
    halves(decode(&buffer(&jpeg, FrameFormat::MJPEG)));
    assert!(decode(&buffer(&jpeg[..40], FrameFormat::MJPEG)).is_none());
}

/// A device that does what it is told.
struct Fake {
    /// Pictures before it stops or fails.
    pictures: u32,
    between: Duration,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Freezes(Duration),
    IsUnplugged,
    IsBroken,
    Panics,
}

impl Device for Fake {
    fn picture(&mut self) -> Result<Option<Picture>, Problem> {
        if let Some(left) = self.pictures.checked_sub(1) {
            self.pictures = left;
            thread::sleep(self.between);
            return Ok(Some((2, 2, vec![7; 12])));
        }
        match self.then {
            Then::Freezes(pause) => {
                thread::sleep(pause);
                Ok(None)
            }
            Then::IsUnplugged => Err((Trouble::Unplugged, "the camera is gone".to_owned())),
            Then::IsBroken => Ok(None),
            Then::Panics => panic!("the driver broke"),
        }
    }
}

fn quick() -> CameraOptions {
    let timeout = Duration::from_millis(150);
    CameraOptions { open_timeout: timeout, frame_timeout: timeout, ..CameraOptions::default() }
}

fn fake(pictures: u32, then: Then) -> CameraSource {
    let device = Fake { pictures, between: Duration::from_millis(5), then };
    CameraSource::start("camera 0".into(), quick(), move || Ok((device, SourceInfo::default()))).unwrap()
}

/// Pictures until the trouble, and the trouble.
fn until_trouble(source: &mut CameraSource) -> (u32, Option<Trouble>) {
    for n in 0.. {
        match source.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => return (n, None),
            Err(error) => return (n, error.trouble()),
        }
    }
    (0, None)
}

#[test]
fn a_camera_that_does_not_answer_is_given_up_in_time() {
    let begun = Instant::now();
    let hangs = || {
        thread::sleep(Duration::from_millis(600));
        Ok((Fake { pictures: 1, between: Duration::ZERO, then: Then::IsBroken }, SourceInfo::default()))
    };
    let error = CameraSource::start("camera 0".into(), quick(), hangs).map(drop).unwrap_err();
    assert_eq!(error.trouble(), Some(Trouble::Silent), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[test]
fn a_camera_that_freezes_is_told_in_time_and_lets_go() {
    let mut source = fake(10, Then::Freezes(Duration::from_millis(400)));
    let (pictures, trouble) = until_trouble(&mut source);
    assert_eq!((pictures > 0, trouble), (true, Some(Trouble::Frozen)));
    let asked = Instant::now();
    assert!(matches!(source.next_frame(), Ok(None)), "it is at its end");
    drop(source);
    assert!(asked.elapsed() < Duration::from_millis(700), "{:?}", asked.elapsed());
}

#[test]
fn unplugging_and_broken_pictures_are_told_apart() {
    assert_eq!(until_trouble(&mut fake(5, Then::IsUnplugged)).1, Some(Trouble::Unplugged));
    assert_eq!(until_trouble(&mut fake(5, Then::IsBroken)).1, Some(Trouble::Unreadable));
    let begun = Instant::now();
    assert_eq!(until_trouble(&mut fake(5, Then::Panics)).1, None, "it is at its end");
    assert!(begun.elapsed() < Duration::from_millis(140), "at once: {:?}", begun.elapsed());
}

#[test]
fn pictures_that_nobody_took_are_counted() {
    let mut source = fake(40, Then::Freezes(Duration::from_millis(400)));
    thread::sleep(Duration::from_millis(300));
    let newest = source.next_frame().unwrap().unwrap();
    assert_eq!((newest.seq, source.dropped()), (39, 39));
}
