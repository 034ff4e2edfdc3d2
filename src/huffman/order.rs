//! The order of a row's first classes, where quantizing has made ties (FORMAT.md, section 9).
//!
//! Quantizing keeps the order of values but can make them equal. Encoder and decoder walk down the classes from the
//! largest; where several share a level, a symbol says which of them is next, by its position among them, and the
//! decoded values are set apart by units in the last place. Of the top class, a number in a context may say it in place
//! of a symbol.

use super::Corrupt;
use super::bitstream::BitReader;
use super::coded::Tables;
use super::contexts::{self, ContextDecoder, Sequence, Stream};
use super::meter::Watch;
use super::ranks::Ranks;
use super::symbols::Symbol;
use super::tokens::LEVELS;
use crate::matrix::argmax;

/// The largest number of classes whose order a file may promise. Format-stable.
pub const MAX_KEEP_TOP: usize = 255;
/// Positions after the first that have an alphabet of their own; the last one's is for later positions as well.
const N_POSITIONS: usize = 4;

/// The places of the order's alphabets among those of a block: one for each of the first positions, but for a known
/// top class, and one for all later positions.
#[derive(Debug, Clone, Copy)]
struct Alphabets {
    first: usize,
    knows_top: bool,
}

impl Alphabets {
    fn at(self, position: usize) -> usize {
        self.first + position.min(N_POSITIONS) - usize::from(self.knows_top)
    }

    /// The symbol that says which of the classes of a tie is next.
    fn symbol(self, tie: Tie, chosen: u32) -> Symbol {
        Symbol::with_extra(self.at(tie.position), LEVELS.split(chosen))
    }
}

/// Two or more classes of the same level, of which the next one of the order is told. There always is one: no level
/// and no decoded value is NaN.
#[derive(Debug, Clone, Copy)]
struct Tie {
    /// The position of the next one in the order.
    position: usize,
    n_tied: usize,
}

impl Tie {
    /// The context of the top class, by the number of classes that share its level, given the context of two of them;
    /// `None` for later positions, or where there is no such context. Format-stable.
    fn context(self, first: Option<usize>) -> Option<usize> {
        match self.position {
            0 => Some(first? + self.n_tied.min(contexts::N_POSITIONS + 1) - 2),
            _ => None,
        }
    }
}

/// Walks down the first classes of rows.
#[derive(Debug)]
pub struct Order {
    keep_top: usize,
    alphabets: Alphabets,
    ranks: Ranks,
    /// The first classes of the row at hand, largest first.
    first: Vec<usize>,
    is_placed: Vec<bool>,
    /// The classes that share the largest level among those left, of which the next one is told.
    candidates: Vec<usize>,
}

impl Order {
    /// A walk down the first `keep_top` of `n_classes`, whose alphabets begin with `first_alphabet`.
    pub fn new(keep_top: usize, n_classes: usize, knows_top: bool, first_alphabet: usize) -> Self {
        let keep_top = keep_top.min(n_classes);
        // Without ranks to learn, keep none.
        let n_ranked = if keep_top > 1 { n_classes } else { 1 };
        Self {
            keep_top,
            alphabets: Alphabets {
                first: first_alphabet,
                knows_top,
            },
            ranks: Ranks::new(n_ranked),
            first: Vec::new(),
            is_placed: vec![false; n_classes],
            candidates: Vec::new(),
        }
    }

    /// The number of alphabets, of level tokens each.
    pub fn n_alphabets(keep_top: usize, knows_top: bool) -> usize {
        usize::from(!knows_top) + (keep_top - 1).min(N_POSITIONS)
    }

    /// Walks down a row of levels; `choose` gets the position in the order and two or more classes of the same level,
    /// and returns which of them comes next. After an error of it, the order is of no use.
    fn walk<T: PartialOrd + Copy>(
        &mut self,
        levels: &[T],
        top: Option<usize>,
        mut choose: impl FnMut(usize, &[usize]) -> Result<usize, Corrupt>,
    ) -> Result<(), Corrupt> {
        self.first.clear();
        self.candidates.clear();
        for position in 0..self.keep_top {
            let class = match top {
                Some(top) if position == 0 => top,
                _ => {
                    // The classes that are left of a level come before all others.
                    if self.candidates.is_empty() {
                        self.find_candidates(levels);
                        self.sort_candidates();
                    }
                    let chosen = match self.candidates.len() {
                        1 => 0,
                        _ => choose(position, &self.candidates)?,
                    };
                    self.candidates.remove(chosen)
                }
            };
            self.first.push(class);
            self.is_placed[class] = true;
            if position == 0 && self.keep_top > 1 {
                self.sort_candidates();
            }
        }
        for &class in &self.first {
            self.is_placed[class] = false;
        }
        if let Some((&top, others)) = self.first.split_first() {
            for &class in others {
                self.ranks.learn(top, class);
            }
        }
        Ok(())
    }

    /// Puts the candidates in the order of their ranks beside the first class, once it is known.
    fn sort_candidates(&mut self) {
        if let Some(&top) = self.first.first() {
            let ranks = &self.ranks;
            self.candidates
                .sort_unstable_by_key(|&class| ranks.rank(top, class));
        }
    }

    /// Finds the classes of the largest level among those not placed yet.
    fn find_candidates<T: PartialOrd + Copy>(&mut self, levels: &[T]) {
        self.candidates.clear();
        if self.first.is_empty() {
            let Some(&first) = levels.first() else { return };
            // Lanes, which the compiler turns into vector instructions.
            let larger = |a: T, b: T| if b > a { b } else { a };
            let mut lanes = [first; 16];
            for chunk in levels.chunks(lanes.len()) {
                for (lane, &level) in lanes.iter_mut().zip(chunk) {
                    *lane = larger(*lane, level);
                }
            }
            let largest = lanes.into_iter().fold(first, larger);
            for (index, chunk) in levels.chunks(lanes.len()).enumerate() {
                // Without branches within a chunk, as above: few chunks have one.
                if chunk
                    .iter()
                    .fold(false, |any, &level| any | (level == largest))
                {
                    let classes = (index * lanes.len()..).zip(chunk);
                    let of_largest = classes.filter(|&(_, &level)| level == largest);
                    self.candidates.extend(of_largest.map(|(class, _)| class));
                }
            }
            return;
        }
        let mut largest = None;
        for (class, &level) in levels.iter().enumerate() {
            if self.is_placed[class] {
                continue;
            }
            if largest.is_none_or(|largest| level > largest) {
                largest = Some(level);
                self.candidates.clear();
            }
            if largest == Some(level) {
                self.candidates.push(class);
            }
        }
    }

    /// Codes the order of a row: `levels` are those of `values`.
    pub fn encode<T: PartialOrd + Copy>(
        &mut self,
        values: &[f32],
        levels: &[T],
        top: Option<usize>,
        mut push: impl FnMut(Symbol),
    ) {
        let alphabets = self.alphabets;
        self.choose(values, levels, top, |tie, chosen| {
            push(alphabets.symbol(tie, chosen));
        });
    }

    /// Codes the order of a row as [`encode`](Self::encode) does, the top class in the context of how many share its
    /// level if there is a `first_context`: that of two.
    pub fn encode_in_contexts<T: PartialOrd + Copy>(
        &mut self,
        values: &[f32],
        levels: &[T],
        first_context: Option<usize>,
        sequence: &mut Sequence,
    ) {
        let alphabets = self.alphabets;
        self.choose(values, levels, None, |tie, chosen| {
            match tie.context(first_context) {
                Some(context) => sequence.push_number(context, chosen),
                None => sequence.push(alphabets.symbol(tie, chosen)),
            }
        });
    }

    /// Walks down a row whose values are known; `tell` gets each tie, and the class chosen by its position.
    fn choose<T: PartialOrd + Copy>(
        &mut self,
        values: &[f32],
        levels: &[T],
        top: Option<usize>,
        mut tell: impl FnMut(Tie, u32),
    ) {
        if self.alphabets.knows_top && self.keep_top == 1 {
            return;
        }
        self.walk(levels, top, |position, candidates| {
            // Of equal values the first class, as NumPy has it.
            let mut chosen = 0;
            for (index, &class) in candidates.iter().enumerate() {
                let best = candidates[chosen];
                if values[class] > values[best] || (values[class] == values[best] && class < best) {
                    chosen = index;
                }
            }
            let n_tied = candidates.len();
            tell(Tie { position, n_tied }, chosen as u32);
            Ok(chosen)
        })
        .expect("choosing does not fail");
    }

    /// Reads the order of a row that has been decoded to `values`, and sets its first classes apart.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends or a position does not exist.
    pub fn decode(
        &mut self,
        values: &mut [f32],
        top: Option<usize>,
        tables: &Tables<impl Watch>,
        reader: &mut BitReader,
    ) -> Result<(), Corrupt> {
        let alphabets = self.alphabets;
        self.read(values, top, |tie| {
            tables.number(alphabets.at(tie.position), reader)
        })
    }

    /// Reads the order of a row as [`decode`](Self::decode) does, the top class in the context of how many share its
    /// value if there is a `first_context`: that of two.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_in_contexts(
        &mut self,
        values: &mut [f32],
        first_context: Option<usize>,
        contexts: &ContextDecoder,
        tables: &Tables<impl Watch>,
        stream: &mut Stream,
    ) -> Result<(), Corrupt> {
        let alphabets = self.alphabets;
        self.read(values, None, |tie| match tie.context(first_context) {
            Some(context) => contexts.number(context, tables, stream),
            None => tables.number(alphabets.at(tie.position), &mut stream.reader),
        })
    }

    /// Walks down a row that has been decoded to `values`, and sets its first classes apart; `next` says which class of
    /// a tie comes next.
    fn read(
        &mut self,
        values: &mut [f32],
        top: Option<usize>,
        mut next: impl FnMut(Tie) -> Result<u32, Corrupt>,
    ) -> Result<(), Corrupt> {
        self.walk(values, top, |position, candidates| {
            let n_tied = candidates.len();
            let chosen = next(Tie { position, n_tied })? as usize;
            match chosen < n_tied {
                true => Ok(chosen),
                false => Err(Corrupt("the order of a row's classes does not exist")),
            }
        })?;
        self.set_apart(values);
        Ok(())
    }

    /// Raises the first classes, the last of them first, where they do not come before all that follow.
    fn set_apart(&mut self, values: &mut [f32]) {
        if self.first.len() == 1 && argmax(values) == self.first[0] {
            return;
        }
        for &class in &self.first {
            self.is_placed[class] = true;
        }
        let mut next: Option<usize> = None;
        for class in 0..values.len() {
            if !self.is_placed[class] && next.is_none_or(|next| values[class] > values[next]) {
                next = Some(class);
            }
        }
        for &class in &self.first {
            self.is_placed[class] = false;
        }
        for &class in self.first.iter().rev() {
            if let Some(next) = next {
                let comes_first =
                    values[class] > values[next] || (values[class] == values[next] && class < next);
                if !comes_first {
                    values[class] = values[next].next_up();
                }
            }
            next = Some(class);
        }
    }
}

/// The first `n` classes of a row, largest first, of equal values the first class first.
pub fn first_classes<T: Copy + Into<f64>>(row: &[T], n: usize) -> Vec<usize> {
    // Adding 0 makes -0 equal to 0.
    let key = |class: usize| row[class].into() + 0.0;
    let falling = |&a: &usize, &b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(&b));
    let mut classes: Vec<usize> = (0..row.len()).collect();
    if n < classes.len() {
        classes.select_nth_unstable_by(n, falling);
        classes.truncate(n);
    }
    classes.sort_unstable_by(falling);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_classes_are_the_largest_and_of_equals_the_first() {
        let row = [0.1f32, 0.3, -0.0, 0.3, 0.0, 0.2];
        assert!(first_classes(&row, 0).is_empty());
        assert_eq!(first_classes(&row, 1), [1]);
        assert_eq!(first_classes(&row, 5), [1, 3, 5, 0, 2]);
        assert_eq!(first_classes(&row, 9), [1, 3, 5, 0, 2, 4]);
    }

    #[test]
    fn ties_of_the_top_class_have_contexts() {
        let context = |position, n_tied| Tie { position, n_tied }.context(Some(288));
        for (n_tied, expected) in [(2, 288), (96, 382), (97, 383), (98, 383), (1 << 20, 383)] {
            assert_eq!(context(0, n_tied), Some(expected));
            assert_eq!(context(1, n_tied), None);
        }
        let tie = Tie {
            position: 0,
            n_tied: 2,
        };
        assert_eq!(tie.context(None), None);
    }

    #[test]
    fn classes_are_set_apart_in_the_order_walked() {
        let mut order = Order::new(3, 4, false, 0);
        let originals = [0.11, 0.12, 0.4, 0.1];
        let levels = [1u32, 1, 4, 1];
        let mut symbols = Vec::new();
        order.encode(&originals, &levels, None, |symbol| symbols.push(symbol));
        // The top class is alone at its level; of the three others at level 1, the second, then the first.
        assert_eq!(order.first, [2, 1, 0]);
        let chosen: Vec<_> = symbols.iter().map(|s| (s.alphabet(), s.value())).collect();
        assert_eq!(chosen, [(1, 1), (2, 0)]);
        let mut decoded = [0.1, 0.1, 0.4, 0.1];
        order.set_apart(&mut decoded);
        assert_eq!(first_classes(&decoded, 3), [2, 1, 0]);
        assert_eq!(decoded, [0.1, 0.1f32.next_up(), 0.4, 0.1]);
    }
}
