//! The numbered checks of specs: tosa, section 6.

use super::*;
use crate::encoder::{
    Trunk,
    clip::{self, Clip},
    siglip::{self, Siglip},
    vit::{Vit, VitConfig},
};
use candle_core::{DType, Device, Shape as Dims};
use candle_nn::{Init, var_builder::SimpleBackend};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Weights by chance, the same for the same name.
struct Chance;

impl SimpleBackend for Chance {
    fn get(&self, shape: Dims, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let spread =
            if shape.rank() > 1 { 1.0 / (shape.dims()[1..].iter().product::<usize>() as f32).sqrt() } else { 0.1 };
        let shift = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> =
            (0..shape.elem_count()).map(|_| shift + rng.random_range(-1.7..1.7f32) * spread).collect();
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("no shape for {name}")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn vb() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Chance), DType::F32, Device::Cpu)
}

fn config(ratio: f64, kernel: usize) -> VitConfig {
    VitConfig {
        image_size: 24,
        patch_size: 4,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 4,
        num_attention_heads: 2,
        tosa: Some(TosaOptions { ratio, kernel, ..TosaOptions::default() }),
        ..VitConfig::default()
    }
}

/// Of the towers in these tests.
const OF: Outline = Outline { depth: 4, heads: 2, class_tokens: 1 };

fn random(shape: impl Into<Dims>, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| rng.random_range(-1.0..1.0f32)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn rows(x: &Tensor) -> Vec<Vec<u32>> {
    let x = x.flatten_to(1).unwrap().to_vec2::<f32>().unwrap();
    x.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

fn dense(ratio: f64) -> (Vit, Vit) {
    let cfg = config(ratio, 1);
    let plain = VitConfig { tosa: None, ..cfg.clone() };
    (Vit::new(&cfg, vb()).unwrap(), Vit::new(&plain, vb()).unwrap())
}

#[test]
fn all_tokens_give_the_dense_model_bit_for_bit() {
    let (vit, plain) = dense(1.0);
    let patches = random((3, 36, 48), 1);
    assert_eq!(rows(&vit.forward(&patches).unwrap()), rows(&plain.forward(&patches).unwrap()));
    // Also where every token goes the long way.
    let x = random((2, 37, 16), 2);
    let all: Vec<Vec<u32>> = vec![(0..37).collect(); 2];
    let layer = plain.blocks()[1];
    assert_eq!(rows(&selectively(layer, &x, &all).unwrap()), rows(&layer.forward(&x).unwrap()));
    // And skipping does change something.
    let (vit, plain) = dense(0.5);
    assert_ne!(rows(&vit.forward(&patches).unwrap()), rows(&plain.forward(&patches).unwrap()));
}

#[test]
fn skipped_tokens_pass_unchanged() {
    let (vit, _) = dense(0.5);
    let x = random((2, 37, 16), 3);
    let chosen = vec![vec![0, 3, 4, 30], vec![0, 1, 2, 36]];
    let y = selectively(vit.blocks()[1], &x, &chosen).unwrap();
    let (before, after) = (rows(&x), rows(&y));
    for (picture, chosen) in chosen.iter().enumerate() {
        for token in 0..37u32 {
            let at = picture * 37 + token as usize;
            assert_eq!(before[at] == after[at], !chosen.contains(&token), "picture {picture}, token {token}");
        }
    }
    assert!(selectively(vit.blocks()[1], &x, &[vec![0]]).is_err());
    assert!(selectively(vit.blocks()[1], &x, &[vec![0], vec![99]]).is_err());
}

#[test]
fn the_order_of_tokens_does_not_matter() {
    let (vit, _) = dense(0.4);
    let x = random((1, 37, 16), 4);
    // A shuffle that leaves the class token in its place.
    let order: Vec<u32> = std::iter::once(0).chain((0..36).map(|i| 1 + (i * 5 + 3) % 36)).collect();
    let mut back = vec![0u32; 37];
    order.iter().enumerate().for_each(|(to, from)| back[*from as usize] = to as u32);
    let tensor = |i: &[u32]| Tensor::new(i, &Device::Cpu).unwrap();
    let shuffled = x.index_select(&tensor(&order), 1).unwrap();
    let tosa = Tosa::new(config(0.4, 1).tosa.as_ref().unwrap(), OF, &vb().pp("layers")).unwrap();
    let go = |x: &Tensor| {
        let mut memory = Memory::default();
        let y = run(&vit.blocks(), x, Some(&tosa), Some(&mut memory)).unwrap();
        (y, memory.attended().unwrap().into_values().map(|chosen| chosen[0].clone()).collect::<Vec<_>>())
    };
    let (plain, sets) = go(&x);
    let (other, moved) = go(&shuffled);
    let other = other.index_select(&tensor(&back), 1).unwrap();
    let off =
        (plain - other).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(off < 1e-5, "{off}");
    assert_eq!(sets.len(), 2);
    for (set, moved) in sets.iter().zip(moved) {
        let mut mapped: Vec<u32> = moved.iter().map(|i| order[*i as usize]).collect();
        mapped.sort_unstable();
        assert_eq!(*set, mapped);
    }
}

#[test]
fn the_class_token_always_stays_and_the_numbers_are_those_of_the_formula() {
    for seed in 0..1000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scores: Vec<f32> = (0..50).map(|_| rng.random()).collect();
        let chosen = rank::top(&scores, keep(0.01, 50, 1), 1);
        assert!(chosen[0] == 0 && chosen.windows(2).all(|p| p[0] < p[1]));
        assert_eq!(Draw { seed, frame: 0, layer: 1 }.tokens(1, 50, 2, 1)[0][0], 0);
    }
    for (n, expected) in [(2, [2, 2, 2, 2]), (50, [2, 26, 46, 50]), (197, [3, 99, 178, 197]), (577, [7, 289, 520, 577])]
    {
        assert_eq!([0.01, 0.5, 0.9, 1.0].map(|r| keep(r, n, 1)), expected, "{n} tokens");
    }
    // The same through a whole tower, for what a stream remembers.
    let (mut vit, _) = dense(0.01);
    for seed in 0..20 {
        for ratio in [0.01, 0.5, 0.9] {
            let tosa = vit.tosa().unwrap().varied(ratio, false, Ranking::Selector);
            vit.set_tosa(Some(tosa));
            let mut memory = Memory::default();
            vit.follow(&random((2, 36, 48), seed), Some(&mut memory)).unwrap();
            for chosen in memory.attended().unwrap().values().flatten() {
                assert!(chosen[0] == 0 && chosen.len() == keep(ratio, 37, 1), "seed {seed}, ratio {ratio}: {chosen:?}");
            }
            assert_eq!(memory.attended().unwrap().len(), 2);
        }
    }
    // 0.1 * 30 is above 3 in floating point.
    assert_eq!(keep(0.1, 30, 0), 3);
}

#[test]
fn a_map_by_hand() {
    // Columns sum to 0.4, 1.6, 1.2, 0.8.
    let map = [[0.1f32, 0.4, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2]];
    let map = Tensor::new(&[[map]], &Device::Cpu).unwrap();
    let scores = Score::ColSum.of(&map).unwrap().to_vec2::<f32>().unwrap();
    for (found, expected) in scores[0].iter().zip([0.4, 1.6, 1.2, 0.8]) {
        assert!((found - expected).abs() < 1e-6);
    }
    assert_eq!(rank::top(&scores[0], 2, 0), [1, 2]);
    assert_eq!(rank::top(&[0.5, 1.0, 0.5, 0.5], 2, 0), [0, 1], "of equals the first");
    let cls = Score::ClsRow.of(&map).unwrap().to_vec2::<f32>().unwrap();
    assert!((cls[0][1] - 0.4).abs() < 1e-6);
    let entropy = Score::RowEntropy.of(&map).unwrap().to_vec2::<f32>().unwrap();
    assert!((entropy[0][0] - 1.2798).abs() < 1e-3);
}

#[test]
fn costs_are_those_of_the_table() {
    let table = [
        (192, 3, 102_049_152, 698_562, 1_253_491_200, [1_190_836_620, 1_122_269_580, 1_058_838_156, 930_735_756]),
        (384, 6, 378_391_296, 2_794_248, 4_598_498_304, [4_380_711_984, 4_137_409_584, 3_909_686_832, 3_441_145_392]),
        (
            768,
            12,
            1_453_954_560,
            11_176_992,
            17_563_060_224,
            [16_757_578_944, 15_846_300_864, 14_987_415_744, 13_200_986_304],
        ),
    ];
    for (width, heads, layer, selector, dense, selective) in table {
        let shape = Shape { tokens: 197, patches: 196, patch_numbers: 768, width, mlp: 4 * width, heads, depth: 12 };
        for (ratio, selective) in [0.9, 0.8, 0.7, 0.5].into_iter().zip(selective) {
            let cost = shape.cost(&TosaOptions { ratio, ..TosaOptions::default() });
            assert_eq!(cost, Cost { layer, selector, dense, selective }, "width {width}, ratio {ratio}");
            assert!(cost.selector * 100 <= cost.layer, "a selector costs at most a hundredth of a layer");
        }
    }
}

#[test]
fn a_wider_kernel_looks_at_neighbours() {
    let scores = random((2, 2, 5, 5), 8);
    let narrow = Selector::new(2, 1, vb().pp("s")).unwrap();
    let wide = Selector::new(2, 3, vb().pp("s")).unwrap();
    for selector in [&narrow, &wide] {
        let map = selector.map(&scores).unwrap();
        let sums = map.sum(3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(map.dims() == [2, 2, 5, 5] && sums.iter().all(|s| (s - 1.0).abs() < 1e-5));
    }
    // A key changed: without neighbours only its own column of logits may change.
    let bump = Tensor::new(&[0f32, 0.0, 1.0, 0.0, 0.0], &Device::Cpu).unwrap();
    let changed = |s: &Selector| -> Vec<bool> {
        let (a, b) = (s.logits(&scores).unwrap(), s.logits(&scores.broadcast_add(&bump).unwrap()).unwrap());
        let off = (a - b).unwrap().abs().unwrap().max(0).unwrap().max(0).unwrap().max(0).unwrap();
        off.to_vec1::<f32>().unwrap().into_iter().map(|o| o > 1e-6).collect()
    };
    assert_eq!(changed(&narrow), [false, false, true, false, false]);
    assert_eq!(changed(&wide), [true, true, true, true, true], "two convolutions reach two keys to each side");
}

#[test]
fn one_sweep_equals_the_map() {
    for (b, heads, n) in [(1, 2, 5), (3, 4, 50), (2, 3, 97)] {
        let scores = random((b, heads, n, n), 9);
        let selector = Selector::new(heads, 1, vb().pp("s")).unwrap();
        let plain = Score::ColSum.of(&selector.map(&scores).unwrap()).unwrap();
        let off = (selector.column_sums(&scores).unwrap() - plain).unwrap().abs().unwrap();
        assert!(off.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-4);
    }
}

/// A small tower of others, which skips half of its tokens.
fn of_others(class_token: bool) -> Box<dyn Trunk> {
    let default = if class_token { clip::default_config() } else { siglip::default_config() };
    let cfg = crate::encoder::TowerConfig {
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 4,
        num_attention_heads: 2,
        image_size: 24,
        patch_size: 4,
        tosa: Some(TosaOptions { ratio: 0.5, ..TosaOptions::default() }),
        ..default
    };
    if class_token {
        Box::new(Clip::new(&cfg, 4, vb()).unwrap())
    } else {
        Box::new(Siglip::new(&cfg, 4, vb()).unwrap())
    }
}

#[test]
fn towers_of_others_skip_too_and_controls_differ() {
    for class_token in [true, false] {
        let mut tower = of_others(class_token);
        let tosa = tower.tosa().cloned().unwrap();
        assert_eq!(tosa.protected(), usize::from(class_token), "class tokens alone are protected");
        let pictures = random((2, 3, 24, 24), 5);
        tower.set_tosa(None);
        let plain = rows(&tower.forward(&pictures).unwrap());
        let mut seen = vec![plain];
        for ranking in [Ranking::Selector, Ranking::Oracle, Ranking::Previous, Ranking::Random(1)] {
            tower.set_tosa(Some(tosa.varied(0.5, false, ranking)));
            let out = rows(&tower.forward(&pictures).unwrap());
            assert!(!seen.contains(&out), "every ranking chooses otherwise");
            seen.push(out);
        }
        let mut memory = Memory::default();
        tower.follow(&pictures, Some(&mut memory)).unwrap();
        let kept = 18 + usize::from(class_token);
        assert!(memory.attended().unwrap().values().flatten().all(|chosen| chosen.len() == kept));
        tower.set_tosa(Some(tosa.varied(1.0, false, Ranking::Oracle)));
        assert_eq!(rows(&tower.forward(&pictures).unwrap()), seen[0]);
    }
}

#[test]
fn chance_draws_anew_for_every_frame_of_a_stream() {
    let (mut vit, _) = dense(0.4);
    let chance = vit.tosa().unwrap().varied(0.4, false, Ranking::Random(7));
    vit.set_tosa(Some(chance));
    let picture = random((1, 36, 48), 1);
    let stream = || {
        let mut memory = Memory::default();
        let mut frame = || {
            vit.follow(&picture, Some(&mut memory)).unwrap();
            memory.attended().unwrap()
        };
        [frame(), frame(), frame()]
    };
    let [first, second, third] = stream();
    assert!(first != second && second != third && first != third, "{first:?}");
    assert_ne!(first[&1], first[&3], "and for every layer");
    assert_eq!(stream(), [first, second, third], "a stream can be seen again");
    // Pictures of a batch are drawn for one by one.
    let both = Draw { seed: 1, frame: 1, layer: 1 }.tokens(2, 50, 20, 1);
    assert_ne!(both[0], both[1]);
}

#[test]
fn half_types_choose_in_f32() {
    // What a card does, on the processor: products and maps of a half-precision tower, selectors and scores in f32.
    let half = VarBuilder::from_backend(Box::new(Chance), DType::BF16, Device::Cpu);
    let tosa = Tosa::new(config(0.5, 1).tosa.as_ref().unwrap(), OF, &half.pp("layers")).unwrap();
    let products = random((1, 2, 37, 37), 3);
    let sums = tosa.selectors()[&1].column_sums(&products).unwrap();
    assert_eq!(sums.dtype(), DType::F32);
    for score in [Score::ColSum, Score::ClsRow, Score::RowEntropy] {
        let map = nn::softmax(&products, 1.0, false).unwrap().to_dtype(DType::BF16).unwrap();
        assert_eq!(score.tokens(&map).unwrap()[0].len(), 37);
    }
}

#[test]
fn an_oracle_pays_for_its_maps() {
    let shape = Shape { tokens: 65, patches: 64, patch_numbers: 768, width: 192, mlp: 768, heads: 6, depth: 6 };
    let options = TosaOptions { ratio: 0.5, ..TosaOptions::default() };
    // Queries, keys and their products of three layers over all tokens.
    assert_eq!(shape.oracle(&options), 3 * (2 * 65 * 192 * 192 + 65 * 65 * 192));
    assert_eq!(shape.oracle(&TosaOptions { ratio: 1.0, ..options.clone() }), 0);
    // In a stream the 33 chosen tokens also attend to the 32 others, in three layers.
    let reuse = TosaOptions { reuse: true, ..options.clone() };
    assert_eq!(shape.cost(&reuse).selective - shape.cost(&options).selective, 3 * 2 * 33 * 32 * 192);
    // Without class tokens nothing is protected.
    assert_eq!(shape.kept(&options), 33);
    assert_eq!(Shape { tokens: 64, ..shape }.kept(&options), 32);
}

#[test]
fn options_that_fit_no_tower_are_named() {
    let problem = |options: TosaOptions| options.problem(4).unwrap();
    assert!(problem(TosaOptions { ratio: 0.0, ..TosaOptions::default() }).contains("tosa.ratio"));
    assert!(problem(TosaOptions { ratio: f64::NAN, ..TosaOptions::default() }).contains("tosa.ratio"));
    assert!(problem(TosaOptions { kernel: 2, ..TosaOptions::default() }).contains("tosa.kernel"));
    for layers in [vec![0], vec![4], vec![1, 2], vec![3, 1]] {
        assert!(problem(TosaOptions { layers: Some(layers), ..TosaOptions::default() }).contains("tosa.layers"));
    }
    assert_eq!(TosaOptions::default().problem(4), None);
    assert!(Vit::new(&config(2.0, 1), vb()).is_err());
}

#[test]
fn a_stream_reuses_what_layers_gave() {
    let (vit, _) = dense(0.4);
    let blocks = vit.blocks();
    let all = blocks.as_slice();
    let options = TosaOptions { reuse: true, ..config(0.4, 1).tosa.unwrap() };
    let tosa = Tosa::new(&options, OF, &vb().pp("layers")).unwrap();
    let off = |a: &Tensor, b: &Tensor| {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    // The first frame is seen whole (the layers that show their products round differently); a frame that does not change is seen as well as that one.
    let x = random((1, 37, 16), 4);
    let whole = run(all, &x, None, None).unwrap();
    let mut memory = Memory::default();
    let first = run(all, &x, Some(&tosa), Some(&mut memory)).unwrap();
    assert!(off(&first, &whole) < 1e-5);
    assert!(memory.attended().unwrap().values().all(|c| c[0].len() == 37));
    let again = run(all, &x, Some(&tosa), Some(&mut memory)).unwrap();
    assert!(off(&again, &whole) < 1e-5);
    assert!(memory.attended().unwrap().values().all(|c| c[0].len() == keep(0.4, 37, 1)));
    // One patch moves a little: it is among the chosen ones, and the frame is closer to the dense one than without reuse.
    let nudge: Vec<f32> = (0..37 * 16).map(|i| if i / 16 == 20 { 0.3 } else { 0.0 }).collect();
    let moved = (&x + Tensor::from_vec(nudge, (1, 37, 16), &Device::Cpu).unwrap()).unwrap();
    let dense = run(all, &moved, None, None).unwrap();
    let kept = run(all, &moved, Some(&tosa), Some(&mut memory)).unwrap();
    assert!(memory.attended().unwrap()[&1][0].contains(&20));
    let plain = tosa.varied(0.4, false, Ranking::Selector);
    let skipped = run(all, &moved, Some(&plain), None).unwrap();
    assert!(off(&kept, &dense) < off(&skipped, &dense) / 4.0, "{} {}", off(&kept, &dense), off(&skipped, &dense));
    // The planted bug: a memory of another picture is no help.
    let mut other = Memory::default();
    run(all, &random((1, 37, 16), 5), Some(&tosa), Some(&mut other)).unwrap();
    assert!(off(&run(all, &moved, Some(&tosa), Some(&mut other)).unwrap(), &dense) > off(&kept, &dense) * 4.0);
    // CLIP and SigLIP towers remember as well.
    for class_token in [true, false] {
        let mut tower = of_others(class_token);
        let tosa = tower.tosa().unwrap().varied(0.5, true, Ranking::Selector);
        let picture = random((1, 3, 24, 24), 7);
        tower.set_tosa(None);
        let whole = tower.forward(&picture).unwrap();
        tower.set_tosa(Some(tosa));
        let mut memory = Memory::default();
        for _ in 0..3 {
            assert!(off(&tower.follow(&picture, Some(&mut memory)).unwrap(), &whole) < 1e-4);
        }
    }
    // A batch of another shape begins anew, and change ranks nothing where there is no stream.
    let two = random((2, 37, 16), 6);
    let anew = run(all, &two, Some(&tosa), Some(&mut memory)).unwrap();
    assert!(off(&anew, &run(all, &two, None, None).unwrap()) < 1e-5);
    let change = Tosa::control(&options, OF, Ranking::Change).unwrap();
    assert!(run(all, &x, Some(&change), None).is_err());
}
