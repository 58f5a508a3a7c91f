//! Weights of any decoder, packed.

use super::Format;
use candle_core::{
    DType, Device, Result, Shape, Tensor, bail,
    quantized::{QTensor, ggml_file::qtensor_from_ggml},
};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::collections::HashMap;

struct Source {
    tensors: HashMap<String, Tensor>,
    format: Format,
}

/// Weights whose rows go into the blocks of a format, packed in it; the others as they are.
pub(crate) fn packed(tensors: HashMap<String, Tensor>, format: Format) -> VarBuilder<'static> {
    packed_for(tensors, format, DType::F32, &Device::Cpu)
}

/// The same for a device and in a type.
pub(crate) fn packed_for(
    tensors: HashMap<String, Tensor>,
    format: Format,
    dtype: DType,
    device: &Device,
) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Source { tensors, format }), dtype, device.clone())
}

/// The same weights as numbers again.
pub(crate) fn unpacked(tensors: &HashMap<String, Tensor>, format: Format) -> VarBuilder<'static> {
    let again = |(name, tensor): (&String, &Tensor)| {
        let tensor = match bytes(tensor, format).unwrap() {
            Some(bytes) => {
                let packed = qtensor_from_ggml(format.dtype(), &bytes, tensor.dims().to_vec(), &Device::Cpu).unwrap();
                packed.dequantize(&Device::Cpu).unwrap()
            }
            None => tensor.clone(),
        };
        (name.clone(), tensor)
    };
    VarBuilder::from_tensors(tensors.iter().map(again).collect(), DType::F32, &Device::Cpu)
}

/// A weight in a format, where its rows go into its blocks.
pub(crate) fn bytes(tensor: &Tensor, format: Format) -> Result<Option<Vec<u8>>> {
    match tensor.dims() {
        [_, width] if width.is_multiple_of(format.unit().1) => {
            Ok(Some(QTensor::quantize(tensor, format.dtype())?.data()?.into_owned()))
        }
        _ => Ok(None),
    }
}

impl Source {
    fn find(&self, name: &str) -> Option<&Tensor> {
        let (name, format) = name.rsplit_once(':')?;
        let tensor = self.tensors.get(name).filter(|_| format == self.format.name())?;
        tensor.dims().last()?.is_multiple_of(self.format.unit().1).then_some(tensor).filter(|t| t.rank() == 2)
    }
}

impl SimpleBackend for Source {
    fn get(&self, _: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(tensor) = self.tensors.get(name) {
            return tensor.to_dtype(dtype)?.to_device(device);
        }
        let Some(tensor) = self.find(name) else { bail!("no tensor {name}") };
        let bytes = bytes(tensor, self.format)?.unwrap_or_default();
        let rows = tensor.dim(0)?;
        Tensor::from_slice(&bytes, (rows, bytes.len() / rows), &Device::Cpu)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.find(name).is_some()
    }
}
