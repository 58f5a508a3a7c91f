//! Every way of multiplying against the plain one, and that against numbers unpacked by another reader.

use super::{
    format::BLOCK,
    inputs::Inputs,
    product::{Instructions, Packed},
    *,
};
use candle_core::{Device, Tensor, quantized::ggml_file::qtensor_from_ggml};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Where the halves of a unit lie.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
        Format::F16 | Format::Bf16 => &[0],
    }
}

/// Bytes of a file: any codes and small factors, halves that are numbers of both signs.
fn bytes(format: Format, rows: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let (size, columns) = format.unit();
    let mut all: Vec<u8> = (0..rows * width / columns * size).map(|_| rng.random()).collect();
    for unit in all.chunks_exact_mut(size) {
        for at in halves(format) {
            let number = rng.random_range(-0.02..0.02);
            unit[*at..at + 2].copy_from_slice(&match format {
                Format::Bf16 => half::bf16::from_f32(number).to_le_bytes(),
                _ => half::f16::from_f32(number).to_le_bytes(),
            });
        }
    }
    all
}

fn numbers(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    // Blocks of very different sizes, and one of zeros.
    let size = |i: usize| if i / BLOCK == 1 { 0.0 } else { 10f32.powi((i / BLOCK % 5) as i32 - 2) };
    (0..n).map(|i| size(i) * rng.random_range(-1.0..1.0)).collect()
}

/// `[rows, width]` as candle unpacks it.
fn unpacked(format: Format, (rows, width): (usize, usize), bytes: &[u8]) -> Vec<f32> {
    let tensor = qtensor_from_ggml(format.dtype(), bytes, vec![rows, width], &Device::Cpu).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn shapes(format: Format) -> [(usize, usize); 4] {
    let columns = format.unit().1;
    [(1, columns), (16, 2 * columns), (37, 3 * columns), (70, 256)]
}

fn product(packed: &Packed, x: &[f32], with: Instructions) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / packed.width() * packed.rows()];
    packed.multiply(x, &mut y, with).unwrap();
    y
}

#[test]
fn rows_are_what_another_reader_unpacks() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for format in Format::ALL {
        for (rows, width) in shapes(format) {
            let bytes = bytes(format, rows, width, &mut rng);
            let expected = unpacked(format, (rows, width), &bytes);
            let matrix = Matrix::pack(format, (rows, width), &bytes).unwrap();
            let mut found = vec![0f32; width];
            for (row, expected) in expected.chunks_exact(width).enumerate() {
                matrix.read_row(row, &mut found).unwrap();
                let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
                assert!(off <= 1e-6 * size, "{format:?} [{rows}, {width}] row {row}: {off} of {size}");
            }
            // A tenth more than the bytes of the file, at most, where the rows fill their groups.
            if rows == 16 {
                assert!(matrix.bytes() * 10 <= bytes.len() * 11, "{format:?}: {} of {}", matrix.bytes(), bytes.len());
            }
        }
    }
}

#[test]
fn the_plain_product_is_that_of_unpacked_numbers() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for format in Format::CODES {
        for (rows, width) in shapes(format) {
            let bytes = bytes(format, rows, width, &mut rng);
            let weight = unpacked(format, (rows, width), &bytes);
            let packed = Packed::new(vec![Matrix::pack(format, (rows, width), &bytes).unwrap()]).unwrap();
            let x = numbers(3 * width, &mut rng);
            let y = product(&packed, &x, Instructions::Scalar);
            let inputs = Inputs::new(&x, width);
            // Tiles of two rows and of one.
            let seen: Vec<Vec<f64>> = inputs
                .tiles()
                .flat_map(|tile| (0..tile.rows).map(move |m| (tile, m)))
                .map(|(tile, m)| {
                    let blocks = tile.data.iter().skip(m).step_by(tile.rows);
                    blocks.flat_map(|b| b.codes.map(|c| f64::from(c) * f64::from(b.scale))).collect()
                })
                .collect();
            assert_eq!(seen.len(), 3);
            for (m, (seen, x)) in seen.iter().zip(x.chunks_exact(width)).enumerate() {
                for (block, x) in seen.chunks_exact(BLOCK).zip(x.chunks_exact(BLOCK)) {
                    let most = x.iter().fold(0f32, |m, x| m.max(x.abs()));
                    let off = block.iter().zip(x).map(|(a, b)| (*a as f32 - b).abs()).fold(0f32, f32::max);
                    assert!(off <= most / 250.0, "eight bits lose {off} of {most}");
                }
                for (row, weight) in weight.chunks_exact(width).enumerate() {
                    let terms = || weight.iter().zip(seen).map(|(w, x)| f64::from(*w) * x);
                    let (expected, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let off = (f64::from(y[m * rows + row]) - expected).abs();
                    assert!(off <= 1e-5 * size + 1e-6, "{format:?} [{rows}, {width}] {m} {row}: {off} of {size}");
                }
            }
        }
    }
}

/// Of weights that are numbers, with inputs as they are; widths that go into no block, and into more than one span of sums.
#[test]
fn numbers_of_two_bytes_are_multiplied_as_they_are() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for format in [Format::F16, Format::Bf16] {
        for (rows, width) in [(1, 1), (37, 56), (70, 700)] {
            let bytes = bytes(format, rows, width, &mut rng);
            let weight = unpacked(format, (rows, width), &bytes);
            let packed = Packed::new(vec![Matrix::pack(format, (rows, width), &bytes).unwrap()]).unwrap();
            let x: Vec<f32> = (0..11 * width).map(|_| rng.random_range(-1.0..1.0)).collect();
            for with in Instructions::available() {
                let y = product(&packed, &x, with);
                assert_eq!(y, product(&packed, &x, Instructions::Scalar), "{format:?} {with:?}");
                for (y, x) in y.chunks_exact(rows).zip(x.chunks_exact(width)) {
                    for (y, weight) in y.iter().zip(weight.chunks_exact(width)) {
                        let terms = || weight.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                        let (expected, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                        assert!(
                            (f64::from(*y) - expected).abs() <= 1e-6 * size,
                            "{format:?} {with:?}: {y}, {expected}"
                        );
                    }
                }
            }
        }
    }
    assert!(Matrix::pack(Format::F16, (4, 6), &[0; 46]).is_err());
    assert!(Matrix::pack(Format::Bf16, (4, 0), &[]).is_err());
}

#[test]
fn all_instructions_and_any_company_give_the_same_bits() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let available = Instructions::available();
    // `make test-arm` looks whether an emulated processor is what it is meant to be.
    println!("compared: {}", available.iter().map(Instructions::to_string).collect::<Vec<_>>().join(", "));
    for format in Format::ALL {
        for (rows, width) in shapes(format) {
            let bytes = bytes(format, rows, width, &mut rng);
            let packed = Packed::new(vec![Matrix::pack(format, (rows, width), &bytes).unwrap()]).unwrap();
            let x = numbers(19 * width, &mut rng);
            let plain = product(&packed, &x, Instructions::Scalar);
            for with in &available {
                for n in [1, 2, 3, 5, 8, 15, 19] {
                    let found = product(&packed, &x[..n * width], *with);
                    let same = found.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{format:?} [{rows}, {width}] {with:?} with {n} rows");
                }
                let last = product(&packed, &x[18 * width..], *with);
                assert_eq!(last, plain[18 * rows..], "{format:?} {with:?}, the last row alone");
            }
        }
    }
}

/// Sums of products are kept in 16 bits for a while where a processor has nothing better: the largest must go into them.
#[test]
fn the_largest_codes_and_inputs_do_not_run_over() {
    let (rows, width) = (16, 256);
    for format in Format::CODES {
        for (fill, x) in [(0x00, 1.0), (0x7f, 1.0), (0x80, 1.0), (0x80, -1.0), (0xff, 1.0), (0xff, -1.0)] {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            // Halves as they are made, so that they are numbers, and all other bytes alike.
            let mut bytes = bytes(format, rows, width, &mut rng);
            let size = format.unit().0;
            for (i, byte) in bytes.iter_mut().enumerate() {
                if !halves(format).iter().any(|at| (*at..at + 2).contains(&(i % size))) {
                    *byte = fill;
                }
            }
            let packed = Packed::new(vec![Matrix::pack(format, (rows, width), &bytes).unwrap()]).unwrap();
            let x = vec![x; 5 * width];
            let plain = product(&packed, &x, Instructions::Scalar);
            for with in Instructions::available() {
                assert_eq!(product(&packed, &x, with), plain, "{format:?} {fill:#x} {with:?}");
            }
        }
    }
}

#[test]
fn parts_lie_side_by_side_and_rows_can_be_picked() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let width = 512;
    let kinds = [(Format::Q4_1, 40), (Format::F16, 21), (Format::Q6K, 7), (Format::Q8_0, 33), (Format::Bf16, 50)];
    let matrices: Vec<Matrix> = kinds
        .map(|(format, rows)| {
            let bytes = bytes(format, rows, width, &mut rng);
            Matrix::pack(format, (rows, width), &bytes).unwrap()
        })
        .to_vec();
    let x = numbers(11 * width, &mut rng);
    let whole = Packed::new(matrices.clone()).unwrap();
    let all = product(&whole, &x, Instructions::best());
    let mut column = 0;
    for matrix in matrices {
        let rows = matrix.rows();
        let one = Packed::new(vec![matrix.clone()]).unwrap();
        let alone = product(&one, &x, Instructions::best());
        for (all, alone) in all.chunks_exact(whole.rows()).zip(alone.chunks_exact(rows)) {
            assert_eq!(all[column..column + rows], *alone);
        }
        let ids: Vec<u32> = (0..rows as u32).rev().step_by(2).chain([0, 3]).collect();
        let picked = product(&one.pick(&ids).unwrap(), &x, Instructions::best());
        for (picked, alone) in picked.chunks_exact(ids.len()).zip(alone.chunks_exact(rows)) {
            assert_eq!(picked, ids.iter().map(|id| alone[*id as usize]).collect::<Vec<_>>());
        }
        assert!(one.pick(&[rows as u32]).is_err());
        let row = one.lookup(&[2, 0]).unwrap().to_vec2::<f32>().unwrap();
        let mut expected = vec![0f32; width];
        matrix.read_row(2, &mut expected).unwrap();
        assert_eq!(row[0], expected);
        assert!(one.lookup(&[rows as u32]).is_err());
        column += rows;
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let good = bytes(Format::Q8_0, 4, 64, &mut rng);
    assert!(Matrix::pack(Format::Q8_0, (4, 64), &good[1..]).is_err());
    assert!(Matrix::pack(Format::Q8_0, (4, 48), &good).is_err());
    assert!(Matrix::pack(Format::Q8_0, (4, 0), &[]).is_err());
    let matrix = Matrix::pack(Format::Q8_0, (4, 64), &good).unwrap();
    let other = Matrix::pack(Format::Q8_0, (8, 32), &good).unwrap();
    assert!(Packed::new(vec![matrix.clone(), other]).is_err() && Packed::new(Vec::new()).is_err());
    let packed = Packed::new(vec![matrix]).unwrap();
    let x = |shape: (usize, usize)| Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(packed.forward(&x((3, 64))).unwrap().dims(), [3, 4]);
    assert!(packed.forward(&x((3, 32))).is_err());
    assert!(packed.forward(&x((3, 64)).to_dtype(candle_core::DType::F64).unwrap()).is_err());
    // Numbers that are none are not hidden.
    let bad = (x((2, 64)).narrow(0, 0, 1).unwrap() * f64::INFINITY).unwrap();
    let y = packed.forward(&Tensor::cat(&[&bad, &x((1, 64))], 0).unwrap()).unwrap().to_vec2::<f32>().unwrap();
    assert!(y[0].iter().all(|y| y.is_nan()) && y[1].iter().all(|y| y.is_finite()));
}
