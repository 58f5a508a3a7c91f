//! A library that can't be used is told, and tract takes over. In a process of its own: the first choice stays.

use spotter_vision::pose::{Runtime, runtime::Backend};

#[test]
fn a_bad_library_gives_a_clear_word_and_tract() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so.9.9.9");
    std::fs::write(&text, b"this is no library").unwrap();
    let missing = folder.path().join("missing.so");
    let runtime = Runtime::load(&[missing.clone(), text.clone(), "libc.so.6".into()]).unwrap();
    assert!(matches!(runtime.backend(), Backend::Tract { .. }));
    assert_eq!(runtime.refused().len(), 3, "{:?}", runtime.refused());
    assert!(runtime.refused()[0].ends_with("not found"));
    assert!(runtime.describe().contains("libonnxruntime.so.9.9.9 can't be opened"), "{}", runtime.describe());
}
