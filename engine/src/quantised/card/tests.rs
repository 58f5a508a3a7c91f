//! Packed products on a card beside what the processor makes of the same bytes; they need an NVIDIA card.

use super::{
    super::{Matrix, testing::bytes},
    *,
};
use candle_core::D;

const FORMATS: [Format; 8] = Format::CODES;

fn noise(rows: usize, width: usize) -> Tensor {
    (Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu).unwrap() * 0.1).unwrap()
}

/// Bytes of noise in a format, and its numbers as a file's reader has them.
fn packed(format: Format, rows: usize, width: usize) -> (Vec<u8>, Vec<Vec<f32>>) {
    let bytes = bytes(&noise(rows, width), format).unwrap().unwrap();
    let matrix = Matrix::pack(format, (rows, width), &bytes).unwrap();
    let row = |i: usize| {
        let mut numbers = vec![0f32; width];
        matrix.read_row(i, &mut numbers).unwrap();
        numbers
    };
    (bytes, (0..rows).map(row).collect())
}

fn most(a: &Tensor, b: &Tensor) -> f32 {
    let apart = (a.to_dtype(DType::F32).unwrap() - b.to_dtype(DType::F32).unwrap()).unwrap().abs().unwrap();
    apart.flatten_all().unwrap().max(D::Minus1).unwrap().to_scalar().unwrap()
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn a_card_unpacks_what_the_processor_does() {
    let card = Device::new_cuda(0).unwrap();
    for format in FORMATS {
        // A last group that is not full.
        let (rows, width) = (41, 512);
        let (bytes, numbers) = packed(format, rows, width);
        let all = [Rows { format, rows, bytes: &bytes }];
        let weight = CardWeight::new(&all, width, false, DType::F16, &card).unwrap().unwrap();
        let expected = Tensor::new(numbers, &card).unwrap();
        let off = most(&weight.numbers().unwrap(), &expected);
        assert!(off < 1e-3, "{format:?}: {off}");
        let some = weight.lookup(&[40, 0, 17, 17]).unwrap();
        let picked = expected.index_select(&Tensor::new(&[40u32, 0, 17, 17], &card).unwrap(), 0).unwrap();
        assert!(most(&some, &picked) < 1e-3, "{format:?}");
        assert!(weight.lookup(&[41]).is_err());
    }
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn packed_products_of_a_card_equal_those_of_numbers_and_one_row_has_the_bits_of_many() {
    let card = Device::new_cuda(0).unwrap();
    for (dtype, step) in [(DType::F16, 2e-3), (DType::BF16, 1.6e-2)] {
        for format in FORMATS {
            for width in [256, 1280, 2816] {
                let (one, _) = packed(format, 40, width);
                let (two, _) = packed(format, 24, width);
                let parts = [(40, &one), (24, &two)];
                let parts = parts.map(|(rows, bytes)| Rows { format, rows, bytes: bytes.as_slice() });
                let weight = CardWeight::new(&parts, width, false, dtype, &card).unwrap().unwrap();
                let x = noise(FEW, width).to_device(&card).unwrap().to_dtype(dtype).unwrap();
                let numbers = weight.numbers().unwrap().to_dtype(DType::F32).unwrap();
                let expected = x.to_dtype(DType::F32).unwrap().matmul(&numbers.t().unwrap()).unwrap();
                let whole = weight.forward(&x).unwrap();
                let size = expected.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
                let off = most(&whole, &expected) / size;
                assert!(off < 8.0 * step, "{format:?} x {width} in {dtype:?}: {off}");
                for (from, n) in [(0, 1), (5, 1), (63, 1), (3, 7), (10, 16), (8, 30)] {
                    let some = weight.forward(&x.narrow(0, from, n).unwrap()).unwrap();
                    assert_eq!(most(&some, &whole.narrow(0, from, n).unwrap()), 0.0, "{format:?}, rows {from}..+{n}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn gates_of_a_card_gate() {
    let card = Device::new_cuda(0).unwrap();
    let (width, out) = (768, 52);
    let pairs = [
        (Format::Q4K, Format::Q4K),
        (Format::Q4K, Format::Q5K),
        (Format::Q6K, Format::Q6K),
        (Format::Q8_0, Format::Q4_0),
    ];
    for (first, second) in pairs {
        let ((gates, _), (ups, _)) = (packed(first, out, width), packed(second, out, width));
        let parts = [Rows { format: first, rows: out, bytes: &gates }, Rows { format: second, rows: out, bytes: &ups }];
        let weight = CardWeight::new(&parts, width, true, DType::BF16, &card).unwrap().unwrap();
        let x = noise(9, width).to_device(&card).unwrap().to_dtype(DType::BF16).unwrap();
        let both = weight.forward(&x).unwrap().to_dtype(DType::F32).unwrap();
        let (gate, up) = (both.narrow(1, 0, out).unwrap(), both.narrow(1, out, out).unwrap());
        let expected = (gate.silu().unwrap() * up).unwrap();
        let inner = weight.gate(&x).unwrap().unwrap();
        let size = expected.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let off = most(&inner, &expected) / size;
        assert!(off < 0.2, "{first:?} {second:?}: {off}");
    }
    let (six, _) = packed(Format::Q6K, out, width);
    let (five, _) = packed(Format::Q5K, out, width);
    let apart =
        [Rows { format: Format::Q6K, rows: out, bytes: &six }, Rows { format: Format::Q5K, rows: out, bytes: &five }];
    assert!(CardWeight::new(&apart, width, true, DType::BF16, &card).unwrap().is_none());
    // Side by side they are two parts.
    assert_eq!(CardWeight::new(&apart, width, false, DType::BF16, &card).unwrap().unwrap().parts().len(), 2);
}
