//! Gradients against differences, on both ways that a layer is computed.

use super::*;
use candle_core::{Device, Var};

fn tensor(values: impl IntoIterator<Item = f32>, shape: &[usize], dtype: DType) -> Tensor {
    let values: Vec<f32> = values.into_iter().collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Gradient of `f` by backward pass against central differences, in f32 (fused) and in f64 (composed).
fn check_gradient(shape: &[usize], f: impl Fn(&Tensor) -> Result<Tensor>) {
    let n: usize = shape.iter().product();
    let start: Vec<f32> = (0..n).map(|i| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect();
    let weigh = |y: Tensor| {
        let w = tensor((0..y.elem_count()).map(|i| ((i * 29 % 17) as f32 - 8.0) / 5.0), y.dims(), y.dtype());
        (y * w).unwrap().sum_all().unwrap()
    };
    let value = |t: Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for dtype in [DType::F32, DType::F64] {
        let var = Var::from_tensor(&tensor(start.clone(), shape, dtype)).unwrap();
        let grads = weigh(f(var.as_tensor()).unwrap()).backward().unwrap();
        let grad = value(grads.get(&var).unwrap().clone());
        for i in 0..n {
            let at = |delta: f32| {
                let mut x = start.clone();
                x[i] += delta;
                value(weigh(f(&tensor(x, shape, dtype)).unwrap()))[0]
            };
            let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
            let close = (grad[i] - expected).abs() < 2e-2 * expected.abs().max(1.0);
            assert!(close, "{dtype:?} {i}: {} against {expected}", grad[i]);
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    let row = |x: &Tensor| tensor([0.5, -1.0, 2.0, 1.5], &[4], x.dtype());
    let two = |x: &Tensor| tensor([0.5, -1.0, 2.0, 1.5, 1.0, 0.1, -0.3, 0.7], &[2, 4], x.dtype());
    check_gradient(&[2, 3, 4], |x| softmax(x, 0.7, false));
    check_gradient(&[2, 3, 5], |x| softmax(x, 0.7, true));
    check_gradient(&[3, 4], |x| layer_norm(x, &row(x), &row(x), 1e-5));
    check_gradient(&[3, 4], |x| rms_norm(x, &row(x), 1e-5));
    check_gradient(&[4], |w| layer_norm(&two(w), w, w, 1e-5));
    check_gradient(&[4], |w| rms_norm(&two(w), w, 1e-5));
    check_gradient(&[3, 4], |w| linear(&two(w), w, None));
    check_gradient(&[2], |b| linear(&two(b), &two(b), Some(b)));
}

#[test]
fn gradients_of_attention_agree_with_differences() {
    for causal in [false, true] {
        check_gradient(&[3, 2, 3, 2], |x| {
            let part = |i: usize| x.get(i)?.contiguous();
            attention(&part(0)?, &part(1)?, &part(2)?, 0.7, causal)
        });
    }
}

#[test]
fn picked_rows_send_their_gradients_back() {
    check_gradient(&[4, 3], |x| pick_rows(x, &[2, 0, 3]));
    // Padding repeats a row; it has no gradient of its own.
    check_gradient(&[3, 2], |x| pick_rows(x, &[1, 0, 2, 0, 0])?.narrow(0, 0, 3));
    let x = tensor([1.0, 2.0], &[2, 1], DType::F32);
    assert_eq!(pick_rows(&x, &[1, 1, 0]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), [2.0, 2.0, 1.0]);
    assert!(pick_rows(&x, &[2]).unwrap_err().to_string().contains("row 2 of 2"));
}

#[test]
fn rows_that_are_put_have_their_gradients_too() {
    let x = |values: &Tensor| tensor((0..8).map(|i| i as f32), &[4, 2], values.dtype());
    check_gradient(&[2, 2], |rows| put_rows(&x(rows), rows, &[3, 1]));
    check_gradient(&[4, 2], |all| put_rows(all, &x(all).narrow(0, 0, 2)?, &[0, 2]));
    let found = put_rows(&x(&tensor([0.0], &[1], DType::F32)), &tensor([9.0; 2], &[1, 2], DType::F32), &[2]).unwrap();
    let expected = [0.0, 1.0, 2.0, 3.0, 9.0, 9.0, 6.0, 7.0];
    assert_eq!(found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    let rows = tensor([1.0, 2.0], &[1, 2], DType::F32);
    assert!(put_rows(&rows, &rows, &[1]).unwrap_err().to_string().contains("row 1 of 1"));
    assert!(put_rows(&rows, &rows, &[0, 0]).is_err());
}

#[test]
fn agrees_with_composed_operations() {
    let x = Tensor::randn(0f32, 3.0, (2, 3, 5, 5), &Device::Cpu).unwrap();
    let double = x.to_dtype(DType::F64).unwrap();
    for causal in [false, true] {
        let difference = (softmax(&x, 0.5, causal).unwrap().to_dtype(DType::F64).unwrap()
            - softmax(&double, 0.5, causal).unwrap())
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f64>()
        .unwrap();
        assert!(difference < 1e-6, "{difference}");
    }
}
