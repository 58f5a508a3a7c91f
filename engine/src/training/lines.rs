//! Texts that a drafter learns from, and what the target thought of each word where that is kept.

use candle_core::{DType, Device, Error, Result, Tensor, bail, safetensors};
use std::{collections::HashMap, path::Path};

/// Stands in a line for a row of what the target saw; no vocabulary has it.
pub const PICTURE: u32 = u32::MAX;

/// A text, in which the target said some of the tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// All tokens, and [`PICTURE`] for each row of what was seen before an utterance.
    pub ids: Vec<u32>,
    /// For each whether the target said it; never the first.
    pub spoken: Vec<bool>,
    /// Temperature at which it spoke.
    pub temperature: f32,
    /// Row of its first spoken token among those of all lines.
    pub row: usize,
    /// Row of the first of what was seen among those of all lines.
    pub sight: usize,
}

impl Line {
    /// Text of which nothing was said by the target.
    pub fn plain(ids: Vec<u32>) -> Self {
        Self { spoken: vec![false; ids.len()], ids, ..Self::default() }
    }

    /// Runs of spoken tokens: first and one past the last of each.
    pub fn utterances(&self) -> Vec<(usize, usize)> {
        let (mut runs, mut begun) = (Vec::new(), None);
        for (i, spoken) in self.spoken.iter().copied().chain([false]).enumerate() {
            match (begun, spoken) {
                (None, true) => begun = Some(i),
                (Some(first), false) => {
                    runs.push((first, i));
                    begun = None;
                }
                _ => {}
            }
        }
        runs
    }
}

/// What the target saw before each utterance, pooled as an adapter reads it (see `model::adapter`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Rows of a moment.
    pub tokens: usize,
    /// Newest frames that these are of.
    pub frames: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Row after row, in the order of lines.
    pub values: Vec<f32>,
}

impl Seen {
    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// A row, and its place among those of its moment.
    pub fn row(&self, row: usize) -> Option<(&[f32], usize)> {
        Some((self.values.get(row * self.width..(row + 1) * self.width)?, row % self.tokens.max(1)))
    }

    fn fits(&self, other: &Self) -> bool {
        (self.tokens, self.frames, self.width) == (other.tokens, other.frames, other.width)
    }
}

/// The likeliest tokens of the target's distribution at each spoken token, in the order of lines. What is left of a row
/// is spread over all tokens that are not listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Tokens listed for a row.
    pub top: usize,
    /// Their ids, row after row.
    pub ids: Vec<u32>,
    /// Their probabilities.
    pub p: Vec<f32>,
}

impl Kept {
    /// With room for `top` tokens in each row.
    pub fn new(top: usize) -> Self {
        Self { top: top.max(1), ids: Vec::new(), p: Vec::new() }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.ids.len() / self.top.max(1)
    }

    /// Adds a row from a distribution `[vocab]`; rows of fewer tokens are filled up with ones of no probability.
    pub fn push(&mut self, p: &[f32]) {
        let mut order: Vec<(u32, f32)> = p.iter().enumerate().map(|(id, p)| (id as u32, *p)).collect();
        let n = self.top.min(order.len());
        if n > 0 && n < order.len() {
            order.select_nth_unstable_by(n - 1, |a, b| b.1.total_cmp(&a.1));
        }
        order.truncate(n);
        self.ids.extend(order.iter().map(|(id, _)| *id));
        self.p.extend(order.iter().map(|(_, p)| *p));
        self.ids.extend(std::iter::repeat_n(0, self.top - n));
        self.p.extend(std::iter::repeat_n(0.0, self.top - n));
    }

    /// Mean of what the rows leave unlisted; 0 of none.
    pub fn tail(&self) -> f64 {
        let listed: f64 = self.p.iter().map(|p| f64::from(*p)).sum();
        if self.rows() == 0 { 0.0 } else { (1.0 - listed / self.rows() as f64).max(0.0) }
    }

    /// Distributions of some rows, `[rows, vocab]`, f32; `said [vocab]` is 1 for tokens that can be said, 0 for others.
    ///
    /// # Errors
    /// A row that is not there.
    pub fn distributions(&self, rows: &[usize], said: &Tensor) -> Result<Tensor> {
        let (vocab, device) = (said.dim(0)?, said.device());
        let (mut ids, mut p, mut tails) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let range = row * self.top..(row + 1) * self.top;
            let (Some(row_ids), Some(row_p)) = (self.ids.get(range.clone()), self.p.get(range)) else {
                bail!("row {row} of {} was not kept", self.rows());
            };
            ids.extend_from_slice(row_ids);
            p.extend_from_slice(row_p);
            tails.push((1.0 - row_p.iter().sum::<f32>()).max(0.0));
        }
        let index = Tensor::from_vec(ids, (rows.len(), self.top), device)?;
        let p = Tensor::from_vec(p, (rows.len(), self.top), device)?;
        let tails = Tensor::from_vec(tails, (rows.len(), 1), device)?;
        let listed = Tensor::zeros((rows.len(), vocab), DType::F32, device)?.scatter_add(&index, &p, 1)?;
        // Whatever has no probability yet and can be said shares the tail.
        let rest = listed.le(0.0)?.to_dtype(DType::F32)?.broadcast_mul(said)?;
        let count = rest.sum_keepdim(1)?.maximum(1.0)?;
        listed + rest.broadcast_mul(&(tails / count)?)?
    }
}

/// Lines, and the target's distributions at their spoken tokens where these are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    /// Texts.
    pub lines: Vec<Line>,
    /// Of all spoken tokens, in order.
    pub kept: Option<Kept>,
    /// For all places of pictures, in order.
    pub seen: Option<Seen>,
}

impl Lines {
    /// Numbers the spoken tokens of all lines, and what was seen.
    pub fn new(mut lines: Vec<Line>, kept: Option<Kept>) -> Self {
        let (mut row, mut sight) = (0, 0);
        for line in &mut lines {
            (line.row, line.sight) = (row, sight);
            row += line.spoken.iter().filter(|s| **s).count();
            sight += line.ids.iter().filter(|id| **id == PICTURE).count();
        }
        Self { lines, kept, seen: None }
    }

    /// With what was seen at the places of pictures.
    pub fn with_seen(self, seen: Option<Seen>) -> Self {
        Self { seen, ..self }
    }

    /// The same as one reads them who sees nothing.
    pub fn unseen(&self) -> Self {
        let strip = |line: &Line| {
            let pairs = line.ids.iter().zip(&line.spoken).filter(|(id, _)| **id != PICTURE);
            let (ids, spoken) = pairs.map(|(id, spoken)| (*id, *spoken)).unzip();
            Line { ids, spoken, ..line.clone() }
        };
        Self::new(self.lines.iter().map(strip).collect(), self.kept.clone())
    }

    /// Adds others behind these; of both or of neither the distributions are kept.
    ///
    /// # Errors
    /// Pictures that were pooled in another way, or in one of both only.
    pub fn join(&mut self, other: Self) -> Result<()> {
        match (&mut self.seen, other.seen) {
            (None, None) => {}
            (Some(mine), Some(theirs)) if mine.fits(&theirs) => mine.values.extend(theirs.values),
            (seen @ None, theirs) if self.lines.is_empty() => *seen = theirs,
            _ => bail!("lines whose pictures were not pooled in the same way"),
        }
        let seen = self.seen.take();
        match (&mut self.kept, other.kept) {
            (Some(mine), Some(theirs)) if mine.top == theirs.top => {
                mine.ids.extend(theirs.ids);
                mine.p.extend(theirs.p);
            }
            (kept @ None, theirs) if self.lines.is_empty() => *kept = theirs,
            (kept, _) => *kept = None,
        }
        let lines = std::mem::take(&mut self.lines).into_iter().chain(other.lines);
        *self = Self::new(lines.collect(), self.kept.take()).with_seen(seen);
        Ok(())
    }

    /// Tokens that the target said.
    pub fn spoken(&self) -> usize {
        self.lines.iter().map(|l| l.spoken.iter().filter(|s| **s).count()).sum()
    }

    /// Writes them as safetensors: `ids`, `spoken`, `lengths`, `temperatures`, `top_ids` and `top_p` where kept, and `seen`
    /// (`[moments, tokens, width]`) and `seen_frames` where something was seen.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, file: &Path) -> Result<()> {
        let device = &Device::Cpu;
        let ids: Vec<u32> = self.lines.iter().flat_map(|l| l.ids.iter().copied()).collect();
        let spoken: Vec<u8> = self.lines.iter().flat_map(|l| l.spoken.iter().map(|s| u8::from(*s))).collect();
        let lengths: Vec<u32> = self.lines.iter().map(|l| l.ids.len() as u32).collect();
        let temperatures: Vec<f32> = self.lines.iter().map(|l| l.temperature).collect();
        let mut tensors = HashMap::from([
            ("ids".to_owned(), Tensor::new(ids, device)?),
            ("spoken".to_owned(), Tensor::new(spoken, device)?),
            ("lengths".to_owned(), Tensor::new(lengths, device)?),
            ("temperatures".to_owned(), Tensor::new(temperatures, device)?),
        ]);
        if let Some(kept) = &self.kept {
            let shape = (kept.rows(), kept.top);
            tensors.insert("top_ids".into(), Tensor::from_vec(kept.ids.clone(), shape, device)?);
            tensors.insert("top_p".into(), Tensor::from_vec(kept.p.clone(), shape, device)?);
        }
        if let Some(seen) = &self.seen {
            let shape = (seen.rows() / seen.tokens.max(1), seen.tokens, seen.width);
            tensors.insert("seen".into(), Tensor::from_vec(seen.values.clone(), shape, device)?);
            tensors.insert("seen_frames".into(), Tensor::new(&[seen.frames as u32], device)?);
        }
        let part = file.with_extension("part");
        safetensors::save(&tensors, &part)?;
        std::fs::rename(&part, file).map_err(Error::wrap)
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// A file that can't be read or does not fit together.
    pub fn load(file: &Path) -> Result<Self> {
        let tensors = safetensors::load(file, &Device::Cpu)?;
        let find =
            |name: &str| tensors.get(name).ok_or_else(|| Error::Msg(format!("{}: no tensor {name}", file.display())));
        let ids: Vec<u32> = find("ids")?.to_vec1()?;
        let spoken: Vec<u8> = find("spoken")?.to_vec1()?;
        let lengths: Vec<u32> = find("lengths")?.to_vec1()?;
        let temperatures: Vec<f32> = find("temperatures")?.to_vec1()?;
        let total: usize = lengths.iter().map(|n| *n as usize).sum();
        if total != ids.len() || spoken.len() != ids.len() || temperatures.len() != lengths.len() {
            bail!("{}: {} tokens, {} flags and lines of {total}", file.display(), ids.len(), spoken.len());
        }
        let (mut at, mut lines) = (0, Vec::with_capacity(lengths.len()));
        for (n, temperature) in lengths.iter().map(|n| *n as usize).zip(temperatures) {
            let own = ids.get(at..at + n).unwrap_or_default().to_vec();
            let said = spoken.get(at..at + n).unwrap_or_default().iter().map(|s| *s != 0).collect();
            lines.push(Line { ids: own, spoken: said, temperature, ..Line::default() });
            at += n;
        }
        let kept = match tensors.get("top_ids") {
            None => None,
            Some(top) => {
                let ids = top.flatten_all()?.to_vec1()?;
                Some(Kept { top: top.dim(1)?, ids, p: find("top_p")?.flatten_all()?.to_vec1()? })
            }
        };
        let seen = match tensors.get("seen") {
            None => None,
            Some(seen) => {
                let (_, tokens, width) = seen.dims3()?;
                let frames = find("seen_frames")?.to_vec1::<u32>()?.first().map_or(0, |n| *n as usize);
                Some(Seen { tokens, frames, width, values: seen.flatten_all()?.to_vec1()? })
            }
        };
        let lines = Self::new(lines, kept).with_seen(seen);
        let places = lines.lines.iter().flat_map(|l| &l.ids).filter(|id| **id == PICTURE).count();
        let rows = lines.seen.as_ref().map_or(0, Seen::rows);
        if places != rows {
            bail!("{}: {rows} rows of what was seen for {places} places", file.display());
        }
        match &lines.kept {
            Some(kept) if kept.rows() != lines.spoken() || kept.p.len() != kept.ids.len() => {
                bail!("{}: {} rows for {} spoken tokens", file.display(), kept.rows(), lines.spoken())
            }
            _ => Ok(lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ids: &[u32], spoken: &[u8]) -> Line {
        Line { ids: ids.to_vec(), spoken: spoken.iter().map(|s| *s == 1).collect(), ..Line::default() }
    }

    #[test]
    fn utterances_are_runs() {
        assert_eq!(line(&[1, 2, 3, 4, 5, 6], &[0, 1, 1, 0, 0, 1]).utterances(), [(1, 3), (5, 6)]);
        assert_eq!(Line::plain(vec![1, 2]).utterances(), []);
    }

    #[test]
    fn rows_that_were_cut_have_their_tail() {
        let mut kept = Kept::new(2);
        kept.push(&[0.5, 0.0, 0.25, 0.125, 0.125]);
        kept.push(&[0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!((kept.tail() - 0.125).abs() < 1e-9);
        // Token 1 can't be said.
        let said = Tensor::new(&[1f32, 0.0, 1.0, 1.0, 1.0], &Device::Cpu).unwrap();
        let rows: Vec<Vec<f32>> = kept.distributions(&[1, 0], &said).unwrap().to_vec2().unwrap();
        assert_eq!(rows, [[0.0, 0.0, 0.0, 0.0, 1.0], [0.5, 0.0, 0.25, 0.125, 0.125]]);
        assert!(kept.distributions(&[2], &said).is_err());
    }

    #[test]
    fn joined_lines_keep_their_rows() {
        let kept = |p: f32| {
            let mut kept = Kept::new(1);
            kept.push(&[p, 0.0]);
            Some(kept)
        };
        let one = |p: f32| Lines::new(vec![line(&[1, 2], &[0, 1])], kept(p));
        let mut all = Lines::default();
        all.join(one(0.5)).unwrap();
        all.join(one(0.75)).unwrap();
        assert_eq!((all.lines[1].row, all.spoken()), (1, 2));
        assert_eq!(all.kept.as_ref().map(|k| k.p.clone()), Some(vec![0.5, 0.75]));
        all.join(Lines::new(vec![line(&[1, 2], &[0, 1])], None)).unwrap();
        assert!(all.kept.is_none());
    }

    #[test]
    fn what_was_seen_stays_with_its_lines() {
        let seen = |tokens: usize, values: &[f32]| Some(Seen { tokens, frames: 3, width: 2, values: values.to_vec() });
        let one = |first: f32| {
            let line = line(&[1, PICTURE, PICTURE, 2], &[0, 0, 0, 1]);
            Lines::new(vec![line], None).with_seen(seen(2, &[first, 1.0, 2.0, 3.0]))
        };
        let mut all = Lines::default();
        all.join(one(5.0)).unwrap();
        all.join(one(7.0)).unwrap();
        assert_eq!((all.lines[1].row, all.lines[1].sight), (1, 2));
        let found = all.seen.as_ref().unwrap();
        assert_eq!(
            (found.row(2), found.row(3), found.row(4)),
            (Some((&[7.0, 1.0][..], 0)), Some((&[2.0, 3.0][..], 1)), None)
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines.safetensors");
        all.save(&file).unwrap();
        assert_eq!(Lines::load(&file).unwrap(), all);
        let bare = all.unseen();
        assert_eq!((bare.lines[1].ids.as_slice(), bare.lines[1].row, bare.seen.is_some()), (&[1, 2][..], 1, false));
        assert_eq!(bare.lines[1].utterances(), [(1, 2)]);
        assert!(all.join(bare).is_err());
        let mut other = one(1.0);
        assert!(other.join(one(1.0).with_seen(seen(1, &[0.0; 4]))).is_err());
        other.seen = seen(2, &[0.0; 8]);
        other.save(&file).unwrap();
        assert!(Lines::load(&file).unwrap_err().to_string().contains("4 rows of what was seen for 2 places"));
    }

    #[test]
    fn files_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines.safetensors");
        let mut kept = Kept::new(3);
        for i in 0..3 {
            kept.push(&[0.1 * i as f32, 0.2, 0.3, 0.4]);
        }
        let lines = vec![line(&[1, 2, 3], &[0, 1, 1]), Line::plain(vec![7]), line(&[3, 1], &[0, 1])];
        let lines = Lines::new(lines, Some(kept));
        assert_eq!(lines.lines.iter().map(|l| l.row).collect::<Vec<_>>(), [0, 2, 2]);
        lines.save(&file).unwrap();
        assert_eq!(Lines::load(&file).unwrap(), lines);
        let wrong = Lines { kept: Some(Kept::new(3)), ..lines };
        wrong.save(&file).unwrap();
        assert!(Lines::load(&file).unwrap_err().to_string().contains("0 rows for 3 spoken tokens"));
    }
}
