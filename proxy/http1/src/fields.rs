//! The fields of a head: the text as it came, the positions of the fields in it, and a list of edits.
//!
//! No field is copied on its own. Fields without edits are written as they were read, together with their neighbours,
//! so names keep their case and their order. A field that is set is stored as the line that will be written.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use crate::error::Misuse;
use crate::known::{Known, LONGEST, Names};
use crate::token::is_token;
use crate::value::{Value, judged};

#[derive(Debug, Clone, Default)]
pub struct Fields {
    /// The head, with its first line.
    text: Bytes,
    /// Lines that were set or appended, each as `name: value` with its line end.
    added: Vec<u8>,
    fields: Vec<Field>,
    seen: Names,
    /// Names with more than one line.
    several: Names,
    /// The fields are not simply the lines of the text followed by the added lines.
    is_edited: bool,
    /// The name of an added line may have capital letters.
    adds_capitals: bool,
}

/// The position of a field, in 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Field {
    at: u32,
    value_at: u32,
    value_length: u32,
    name_length: u16,
    known: Option<Known>,
    place: FieldPlace,
}

/// The position of a value: in the text, or in the added lines.
pub(crate) struct Piece {
    pub(crate) range: Range<usize>,
    pub(crate) is_added: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldPlace {
    /// In the text, exactly as `name: value` with the line end.
    Text,
    /// In the text, with other blanks around the value, which some readers might take for a part of it.
    Loose,
    /// In the added lines.
    Added,
    Removed,
}

/// 256 bytes: room for the text of the [`OWN_FIELDS`].
const OWN_BYTES: usize = 256;

const COLON: &[u8] = b": ";
const LINE_END: &[u8] = b"\r\n";
/// 12 fields: most heads have no more.
const USUAL_FIELDS: usize = 12;
/// 6 fields: room for those that a sidecar adds. Very few heads need more.
const OWN_FIELDS: usize = 6;

impl Fields {
    /// An empty list, for the lines of a head that is about to be read.
    pub(crate) fn unread() -> Self {
        Self { fields: Vec::with_capacity(USUAL_FIELDS + OWN_FIELDS), ..Self::default() }
    }

    /// Keeps a copy of `text`, in which all pushed lines stand.
    pub(crate) fn keep(&mut self, text: &[u8]) {
        self.text = Bytes::copy_from_slice(text);
    }

    /// Adds a line of the text: the position and the length of its name, the position of its value, and the rest of the
    /// line. `is_tight`: a single space stands between colon and value. The reader of lines has checked that positions
    /// fit into 32 bits, and the length of a name into 16.
    #[inline]
    pub(crate) fn push_line(
        &mut self,
        (at, name_length, known): (usize, usize, Option<Known>),
        (value_at, is_tight): (usize, bool),
        value: &[u8],
    ) {
        let is_plain = is_tight && !matches!(value.last(), None | Some(b' ' | b'\t'));
        let value_length = if is_plain { value.len() } else { value.trim_ascii_end().len() };
        self.is_edited |= !is_plain;
        self.push(Field {
            at: at as u32,
            value_at: value_at as u32,
            value_length: value_length as u32,
            name_length: name_length as u16,
            known,
            place: if is_plain { FieldPlace::Text } else { FieldPlace::Loose },
        });
    }

    #[inline]
    fn push(&mut self, field: Field) {
        if let Some(known) = field.known {
            self.note(known);
        }
        self.fields.push(field);
    }

    const fn note(&mut self, known: Known) {
        if self.seen.has(known) {
            self.several.insert(known);
        }
        self.seen.insert(known);
    }

    /// The names that are there.
    pub const fn seen(&self) -> Names {
        self.seen
    }

    pub const fn has(&self, name: Known) -> bool {
        self.seen.has(name)
    }

    pub const fn has_several(&self, name: Known) -> bool {
        self.several.has(name)
    }

    /// The first value of a name.
    pub fn get(&self, name: Known) -> Option<&[u8]> {
        if self.has(name) { self.all(name).next() } else { None }
    }

    /// The first value of a name, which shares the bytes of the head.
    pub fn value_of(&self, name: Known) -> Option<Value> {
        if !self.has(name) {
            return None;
        }
        let field = self.present().find(|field| field.known == Some(name))?;
        let value = self.value(field);
        match field.place {
            FieldPlace::Added => Value::of_text(value).ok(),
            _ => Some(Value::of_head(self.text.slice_ref(value))),
        }
    }

    pub fn all(&self, name: Known) -> impl Iterator<Item = &[u8]> {
        self.present().filter(move |field| field.known == Some(name)).map(|field| self.value(field))
    }

    /// The first value of any name, in any case.
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The elements of a field that is a list, over all its lines, empty ones included.
    pub fn elements(&self, name: Known) -> impl Iterator<Item = &[u8]> {
        self.all(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// Names as they were written, and values without the blanks around them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.present().map(|field| (self.name(field), self.value(field)))
    }

    /// The names of the fields that are not [`Known`], as they were written.
    pub fn unknown_names(&self) -> impl Iterator<Item = &[u8]> {
        self.present().filter(|field| field.known.is_none()).map(|field| self.name(field))
    }

    pub fn len(&self) -> usize {
        self.present().count()
    }

    pub fn is_empty(&self) -> bool {
        self.present().next().is_none()
    }

    /// Every field: its name, and the position of its value.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Option<Known>, &[u8], Piece)> {
        self.present().map(|field| {
            let start = field.value_at as usize;
            let range = start..start + field.value_length as usize;
            (field.known, self.name(field), Piece { range, is_added: field.place == FieldPlace::Added })
        })
    }

    /// The lines that were set or appended.
    pub(crate) fn added(&self) -> &[u8] {
        &self.added
    }

    /// The names whose spelling a peer has chosen: those that came, and those in capital letters. A sidecar adds names in
    /// lower case.
    pub(crate) fn spelled(&self) -> impl Iterator<Item = (Option<Known>, &[u8])> {
        let has_capitals = |name: &[u8]| self.adds_capitals && name.iter().any(u8::is_ascii_uppercase);
        let all = self.present().map(|field| (field, self.name(field)));
        let came = all.filter(move |(field, name)| field.place != FieldPlace::Added || has_capitals(name));
        came.map(|(field, name)| (field.known, name))
    }

    /// An empty list with room for this number of fields and bytes, for fields that are appended one by one.
    pub(crate) fn with_room(fields: usize, bytes: usize) -> Self {
        let (fields, added) = (Vec::with_capacity(fields + OWN_FIELDS), Vec::with_capacity(bytes));
        Self { fields, added, ..Self::default() }
    }

    /// The head as it came, with its first line; empty if the fields were not read from text.
    pub const fn text(&self) -> &Bytes {
        &self.text
    }

    pub fn remove(&mut self, name: Known) -> bool {
        let is_there = self.has(name);
        self.remove_all(Names::of(&[name]));
        is_there
    }

    pub fn remove_all(&mut self, names: Names) {
        if self.seen.has_any(names) {
            for field in &mut self.fields {
                if field.known.is_some_and(|known| names.has(known)) {
                    field.place = FieldPlace::Removed;
                }
            }
            (self.seen, self.several) = (self.seen.without(names), self.several.without(names));
            self.is_edited = true;
        }
    }

    /// Removes the fields for which `unwanted` is true. It gets each name as it was written. Returns whether a field
    /// was removed.
    pub fn remove_where(&mut self, mut unwanted: impl FnMut(Option<Known>, &[u8]) -> bool) -> bool {
        let mut found = false;
        for field in &mut self.fields {
            let source = if field.place == FieldPlace::Added { &self.added[..] } else { &self.text[..] };
            let name = part(source, field.at, u32::from(field.name_length));
            if field.place != FieldPlace::Removed && unwanted(field.known, name) {
                field.place = FieldPlace::Removed;
                found = true;
            }
        }
        if found {
            self.recount();
            self.is_edited = true;
        }
        found
    }

    fn recount(&mut self) {
        let (mut seen, mut several) = (Names::default(), Names::default());
        for known in self.present().filter_map(|field| field.known) {
            if seen.has(known) {
                several.insert(known);
            }
            seen.insert(known);
        }
        (self.seen, self.several) = (seen, several);
    }

    /// Sets the field to one line with this value. The line takes the place and the spelling of the first line with
    /// this name; without one, it is the last line.
    pub fn set(&mut self, name: Known, value: &[u8]) -> Result<(), Misuse> {
        self.set_sound(name, judged(value)?)
    }

    /// Sets a value that was checked before.
    pub fn set_value(&mut self, name: Known, value: &Value) -> Result<(), Misuse> {
        self.set_sound(name, value.as_bytes())
    }

    /// Sets a value that was checked before.
    pub fn set_map_value(&mut self, name: Known, value: &HeaderValue) -> Result<(), Misuse> {
        self.set_sound(name, value.as_bytes().trim_ascii())
    }

    fn set_sound(&mut self, name: Known, value: &[u8]) -> Result<(), Misuse> {
        match self.get(name) {
            None => self.append_known(name, value),
            Some(there) if there == value && !self.has_several(name) => Ok(()),
            Some(_) => self.replace(name, value),
        }
    }

    /// Appends a known field, as a sidecar does to nearly every head. Faster than [`Self::append`].
    fn append_known(&mut self, name: Known, value: &[u8]) -> Result<(), Misuse> {
        let (at, start) = (self.added.len(), name.line_start());
        let value_at = at + start.len();
        let end = value_at + value.len() + LINE_END.len();
        if u32::try_from(end).is_err() {
            return Err(Misuse::IllegalField); // so the conversions below lose nothing
        }
        if self.added.capacity() == 0 {
            self.added = Vec::with_capacity(OWN_BYTES.max(end)); // a fifth of what growing costs
        } else {
            self.added.reserve(end - at);
        }
        for part in [start, value, LINE_END] {
            self.added.extend_from_slice(part);
        }
        self.push(Field {
            at: at as u32,
            value_at: value_at as u32,
            value_length: value.len() as u32,
            name_length: (start.len() - COLON.len()) as u16,
            known: Some(name),
            place: FieldPlace::Added,
        });
        Ok(())
    }

    fn replace(&mut self, name: Known, value: &[u8]) -> Result<(), Misuse> {
        let is_it = |field: &&mut Field| field.place != FieldPlace::Removed && field.known == Some(name);
        let Some(first) = self.fields.iter_mut().find(is_it).map(|field| *field) else { return Ok(()) };
        let mut spelled = [0; LONGEST];
        let spelled = spelled.get_mut(..name.as_str().len()).ok_or(Misuse::IllegalField)?;
        spelled.copy_from_slice(self.name(&first));
        let mut line = Some(self.sound_line(spelled, Some(name), value)?);
        for field in self.fields.iter_mut().filter(|field| field.known == Some(name)) {
            match line.take_if(|_| field.place != FieldPlace::Removed) {
                Some(line) => *field = line,
                None => field.place = FieldPlace::Removed,
            }
        }
        self.several.remove(name);
        self.is_edited = true;
        Ok(())
    }

    /// Appends a line.
    pub fn append(&mut self, name: Known, value: &[u8]) -> Result<(), Misuse> {
        let line = self.line(name.as_str().as_bytes(), Some(name), value)?;
        self.push(line);
        Ok(())
    }

    /// Appends a line with any name.
    pub fn append_named(&mut self, name: &[u8], value: &[u8]) -> Result<(), Misuse> {
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Misuse::IllegalField);
        }
        let line = self.line(name, Known::find(name), value)?;
        self.push(line);
        Ok(())
    }

    fn line(&mut self, name: &[u8], known: Option<Known>, value: &[u8]) -> Result<Field, Misuse> {
        self.sound_line(name, known, judged(value)?)
    }

    /// Appends a line whose name and value a map of headers has already checked.
    pub(crate) fn append_sound(&mut self, name: &[u8], value: &[u8]) -> Result<(), Misuse> {
        let line = self.sound_line(name, Known::find(name), value.trim_ascii())?;
        self.push(line);
        Ok(())
    }

    fn sound_line(&mut self, name: &[u8], known: Option<Known>, value: &[u8]) -> Result<Field, Misuse> {
        let narrow = |number: usize| u32::try_from(number).or(Err(Misuse::IllegalField));
        let at = self.added.len();
        let field = Field {
            at: narrow(at)?,
            value_at: narrow(at + name.len() + COLON.len())?,
            value_length: narrow(value.len())?,
            name_length: u16::try_from(name.len()).or(Err(Misuse::IllegalField))?,
            known,
            place: FieldPlace::Added,
        };
        if at == 0 {
            self.added.reserve(OWN_BYTES);
        }
        self.adds_capitals |= name.iter().any(u8::is_ascii_uppercase);
        for part in [name, COLON, value, LINE_END] {
            self.added.extend_from_slice(part);
        }
        Ok(field)
    }

    fn present(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| field.place != FieldPlace::Removed)
    }

    fn source(&self, field: &Field) -> &[u8] {
        if field.place == FieldPlace::Added { &self.added } else { &self.text }
    }

    fn name(&self, field: &Field) -> &[u8] {
        part(self.source(field), field.at, u32::from(field.name_length))
    }

    fn value(&self, field: &Field) -> &[u8] {
        part(self.source(field), field.value_at, field.value_length)
    }

    /// An upper bound for the bytes of all lines together.
    pub(crate) fn most_bytes(&self) -> usize {
        // A loose field grows by one byte if it has no blank after its colon.
        self.text.len() + self.added.len() + self.fields.len()
    }

    /// Writes every line except those of `skip`. Lines that are neighbours in the text are copied in one piece.
    pub(crate) fn write(&self, out: &mut Vec<u8>, skip: Names) {
        if !self.is_edited && !self.seen.has_any(skip) {
            out.extend_from_slice(self.lines_of_text());
            out.extend_from_slice(&self.added);
            return;
        }
        let mut run = (false, 0, 0);
        for field in &self.fields {
            let is_skipped = field.known.is_some_and(|known| skip.has(known));
            if is_skipped || field.place == FieldPlace::Removed {
                continue;
            }
            if field.place == FieldPlace::Loose {
                self.write_run(&mut run, out);
                for part in [self.name(field), COLON, self.value(field), LINE_END] {
                    out.extend_from_slice(part);
                }
                continue;
            }
            let is_added = field.place == FieldPlace::Added;
            if run.0 != is_added || run.2 != field.at {
                self.write_run(&mut run, out);
                (run.0, run.1) = (is_added, field.at);
            }
            run.2 = field.value_at + field.value_length + 2;
        }
        self.write_run(&mut run, out);
    }

    /// The field lines as they came, without the first line and the empty line.
    fn lines_of_text(&self) -> &[u8] {
        match self.fields.first() {
            Some(Field { at, place: FieldPlace::Text, .. }) => {
                let lines = self.text.get(*at as usize..).unwrap_or_default();
                lines.strip_suffix(LINE_END).unwrap_or(lines)
            }
            _ => b"",
        }
    }

    fn write_run(&self, (is_added, start, end): &mut (bool, u32, u32), out: &mut Vec<u8>) {
        let source = if *is_added { &self.added[..] } else { &self.text[..] };
        out.extend_from_slice(part(source, *start, *end - *start));
        *start = *end;
    }
}

fn part(source: &[u8], at: u32, length: u32) -> &[u8] {
    source.get(at as usize..at as usize + length as usize).unwrap_or_default()
}
