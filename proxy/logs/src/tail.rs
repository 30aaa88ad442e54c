//! Reads the files for one sink: from where it is in each of them, into batches.
//!
//! Each sink reads for itself, because a file is the only buffer that a stalled sink cannot fill. What is read twice comes
//! from the kernel's cache.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use pillion_companion::courtesy::Courtesy;
use pillion_model::logs::{Logs, Source};
use tokio::time::Instant;

use crate::catalog::{Catalog, Now, Read, Tailed};
use crate::checkpoint::Place;
use crate::encode::{Batch, Encoder, Id};
use crate::group::{End, Grouping, Step, Text};
use crate::lines;
use crate::record;
use crate::rotation::{self, TAIL};

/// 240 KiB: the longest text of a record. Loki takes lines of 256 KB.
pub(crate) const LONGEST: usize = 240 * 1024;
/// 128 KiB: what is usually read at once.
const PORTION: usize = 128 * 1024;
/// What is read at once where a portion has no end of a record: more than a text of the longest kind.
const LARGE_PORTION: usize = LONGEST + 32 * 1024;
/// 16 KiB: what is taken between two moments for the data path. Some hundred lines take a quarter of a millisecond.
const PIECE: usize = 16 * 1024;
/// 16 MiB: after so many bytes without an end of a line, one is taken for granted.
const HUGE: u64 = 16 * 1024 * 1024;

/// Where a sink reads a file.
#[derive(Debug, Default, Clone)]
struct Cursor {
    generation: u32,
    position: u64,
    /// The bytes before it.
    tail: Vec<u8>,
    /// Up to here there is no end of the line that begins at the position.
    searched: u64,
    /// The size and the state of the file in which nothing could be taken.
    waits: Option<(u64, End)>,
}

impl Cursor {
    /// At the place that a sink has reached.
    fn new(file: &Tailed, place: Place) -> Self {
        let mut tail = vec![0; place.tail_length.min(TAIL)];
        let begin = place.offset.saturating_sub(tail.len() as u64);
        let read = file.read(&mut tail, begin).unwrap_or(0);
        tail.truncate(read);
        Self { generation: file.generation, position: place.offset, tail, ..Self::default() }
    }

    fn place(&self) -> Place {
        Place { offset: self.position, tail: rotation::hash(&self.tail), tail_length: self.tail.len() }
    }

    /// Goes on behind `bytes`, which stand at the position.
    fn advance(&mut self, bytes: &[u8]) {
        self.position += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        self.waits = None;
    }

    /// Goes on at a place far away.
    fn jump(&mut self, file: &Tailed, to: u64) {
        let length = TAIL.min(usize::try_from(to).unwrap_or(TAIL));
        let mut tail = vec![0; length];
        let read = file.read(&mut tail, to - length as u64).unwrap_or(0);
        tail.truncate(read);
        (self.position, self.tail, self.waits) = (to, tail, None);
    }
}

/// Where a sink read its files at some time.
pub(crate) struct Mark(BTreeMap<u64, Cursor>);

/// A batch, and how far it goes in each file.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) batch: Batch,
    pub(crate) reads: Vec<Read>,
}

/// What came of looking at a file.
enum Looked {
    /// There is nothing to take.
    Nothing,
    Taken,
    /// The file is not the one that was read before.
    Truncated,
    Unreadable(io::Error),
}

/// How a source's lines become records.
struct Reading {
    source: Source,
    grouping: Grouping,
}

pub(crate) struct Tail {
    sink: usize,
    readings: Vec<Reading>,
    encoder: Encoder,
    /// The most bytes of a batch.
    most: usize,
    cursors: BTreeMap<u64, Cursor>,
    /// The file that was read last.
    turn: u64,
    buffer: Vec<u8>,
    courtesy: RefCell<Courtesy>,
}

impl Tail {
    pub(crate) fn new(sink: usize, logs: &Logs, encoder: Encoder, most: usize) -> Self {
        let reading = |source: &Source| Reading {
            source: source.clone(),
            grouping: Grouping::new(source.format, source.starts.clone(), LONGEST),
        };
        let readings = logs.sources.iter().map(reading).collect();
        let (cursors, buffer, courtesy) = Default::default();
        Self { sink, readings, encoder, most, cursors, turn: 0, buffer, courtesy }
    }

    pub(crate) fn is_full(&self, load: &Load) -> bool {
        load.batch.bytes().len() >= self.most || self.encoder.is_full(&load.batch)
    }

    /// Takes a portion of the next file that has one. Returns how many bytes were lost by truncations, or `None` if no file has
    /// anything to take.
    pub(crate) fn step(&mut self, catalog: &mut Catalog, load: &mut Load, now: Now) -> Option<u64> {
        self.cursors.retain(|key, _| catalog.files.contains_key(key));
        let later = catalog.files.range(self.turn + 1..).map(|(key, _)| *key);
        let keys: Vec<u64> = later.chain(catalog.files.range(..=self.turn).map(|(key, _)| *key)).collect();
        for key in keys {
            let Some(file) = catalog.files.get_mut(&key) else { continue };
            let mut cursor = match self.cursors.remove(&key) {
                Some(cursor) => cursor,
                None => self.cursor(file, Place::default(), now.at),
            };
            catalog.has_new |= cursor.generation != file.generation;
            let lost = self.follow(&mut cursor, file);
            let from = cursor.position;
            let looked = self.look(&mut cursor, file, load, now);
            let mut read = Read { file: key, generation: cursor.generation, from, place: cursor.place() };
            self.cursors.insert(key, cursor);
            match looked {
                Looked::Nothing if lost == 0 => continue,
                Looked::Nothing => {}
                Looked::Taken => {
                    // what was read before a truncation stays in the load
                    let is_same = |known: &Read| (known.file, known.generation) == (key, read.generation);
                    if let Some(known) = load.reads.iter().position(is_same) {
                        read.from = load.reads.swap_remove(known).from;
                    }
                    load.reads.push(read);
                }
                Looked::Truncated => {
                    let size = file.size_now().unwrap_or(0);
                    file.truncated(read.place.offset, size, now.at);
                    catalog.has_new = true;
                }
                Looked::Unreadable(error) => {
                    catalog.note_unreadable(key, &error);
                    if lost == 0 {
                        continue;
                    }
                }
            }
            self.turn = key;
            return Some(lost);
        }
        None
    }

    /// Goes back to where the sink is in these files: what was read of them was not taken. Returns how many of these bytes were
    /// lost by truncations before others were read; if a file was truncated later, the next step tells what is lost.
    pub(crate) fn rewind(&mut self, catalog: &mut Catalog, reads: &[Read], now: Instant) -> u64 {
        let mut lost = 0_u64;
        for read in reads {
            let Some(file) = catalog.files.get_mut(&read.file) else { continue };
            if file.generation == read.generation {
                let cursor = self.cursor(file, read.place, now);
                catalog.has_new |= cursor.generation != file.generation;
                self.cursors.insert(read.file, cursor);
            } else if let Some(cursor) = self.cursors.get_mut(&read.file)
                && cursor.generation == read.generation
            {
                cursor.position = read.from;
            } else {
                lost = lost.saturating_add(read.place.offset.saturating_sub(read.from));
            }
        }
        lost
    }

    /// The sink stops, and what was read of these files was not taken. Returns how many bytes were lost by truncations: the next
    /// tail knows nothing of them.
    pub(crate) fn leave(&mut self, catalog: &mut Catalog, reads: &[Read], now: Instant) -> u64 {
        let lost = self.rewind(catalog, reads, now);
        let unread = self.cursors.iter().filter_map(|(key, cursor)| {
            let file = catalog.files.get(key).filter(|file| file.generation != cursor.generation)?;
            Some(file.lost_size.saturating_sub(cursor.position))
        });
        unread.fold(lost, u64::saturating_add)
    }

    /// Where it reads each file now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.cursors.clone())
    }

    /// Goes back to a mark. Of a file that was truncated meanwhile or that is new it goes back to where the sink is.
    pub(crate) fn back_to(&mut self, Mark(mut cursors): Mark) {
        cursors.retain(|key, cursor| {
            self.cursors.get(key).is_some_and(|now| now.generation == cursor.generation)
        });
        self.cursors = cursors;
    }

    /// Where the sink is in a file, of which it was read up to `read`. If other bytes stand there now, the file was truncated.
    fn cursor(&self, file: &mut Tailed, read: Place, now: Instant) -> Cursor {
        let place = file.places.get(self.sink).copied().unwrap_or_default();
        let cursor = Cursor::new(file, place);
        if file.has_lost(&place) || file.has_lost(&read) {
            let size = file.size_now().unwrap_or(0);
            file.truncated(place.offset.max(read.offset), size, now);
        }
        cursor
    }

    /// Begins anew in a file that was truncated. Returns how many bytes this sink has not read.
    fn follow(&self, cursor: &mut Cursor, file: &Tailed) -> u64 {
        if cursor.generation == file.generation {
            return 0;
        }
        let lost = file.lost_size.saturating_sub(cursor.position);
        *cursor = Cursor::new(file, file.places.get(self.sink).copied().unwrap_or_default());
        lost
    }

    fn look(&mut self, cursor: &mut Cursor, file: &mut Tailed, load: &mut Load, now: Now) -> Looked {
        let end = file.end(now);
        if cursor.position >= file.size || cursor.waits == Some((file.size, end)) || !file.is_open() {
            return Looked::Nothing;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut looked, mut is_hole) = (Looked::Nothing, false);
        for portion in [PORTION, LARGE_PORTION] {
            let overlap = cursor.tail.len();
            buffer.resize(overlap + portion, 0);
            let read = match file.read(&mut buffer, cursor.position - overlap as u64) {
                Ok(read) => read,
                Err(error) => {
                    looked = Looked::Unreadable(error);
                    break;
                }
            };
            let (Some(before), Some(bytes)) = (buffer.get(..overlap), buffer.get(overlap..read)) else {
                looked = Looked::Truncated;
                break;
            };
            if before != cursor.tail {
                looked = Looked::Truncated;
                break;
            }
            file.reaches(cursor.position + bytes.len() as u64, now.at);
            let is_whole = bytes.len() < portion;
            let end_here = if is_whole { end } else { End::Open };
            let may_skip = !is_whole || end == End::Over;
            is_hole = bytes.first() == Some(&0);
            let (used, step) = self.take(cursor.position, bytes, file, load, (end_here, may_skip, now));
            match step {
                _ if used > 0 => {
                    cursor.advance(&bytes[..used]);
                    looked = Looked::Taken;
                    break;
                }
                Step::Huge => {
                    let huge = self.huge(cursor, file, load, (end, now));
                    looked = huge.unwrap_or_else(Looked::Unreadable);
                    break;
                }
                _ if is_whole => break,
                _ => {}
            }
        }
        // NULs may become other bytes without a change of the size
        if matches!(looked, Looked::Nothing) && !is_hole {
            cursor.waits = Some((file.size, end));
        }
        buffer.truncate(PORTION + TAIL);
        buffer.shrink_to(PORTION + TAIL);
        self.buffer = buffer;
        looked
    }

    /// Takes what stands in a buffer, until the batch is full. Returns how many bytes were used, and what the rest waits for.
    /// `may_skip`: NULs up to the end of the buffer are a hole. At the end of a file they may be bytes that come later.
    fn take(
        &self,
        position: u64,
        bytes: &[u8],
        file: &Tailed,
        load: &mut Load,
        (end, may_skip, now): (End, bool, Now),
    ) -> (usize, Step) {
        let Some(reading) = self.readings.get(file.origin.source) else { return (bytes.len(), Step::Wait) };
        let mut used = 0;
        while !self.is_full(load) {
            let rest = bytes.get(used..).unwrap_or_default();
            let hole = lines::hole(rest);
            if hole > 0 && hole == rest.len() && !may_skip {
                return (used, Step::Wait);
            }
            if hole > 0 {
                used += hole;
                continue;
            }
            let step = reading.grouping.next(rest, end, &mut |text| {
                self.add(reading, &text, file, (position + used as u64, now), load);
            });
            match step {
                Step::Used(more) => {
                    used += more;
                    self.courtesy.borrow_mut().after(more, PIECE);
                }
                waits => return (used, waits),
            }
        }
        (used, Step::Wait)
    }

    /// Adds the record of a text, unless it is to be left out.
    fn add(
        &self,
        reading: &Reading,
        text: &Text<'_>,
        file: &Tailed,
        (position, now): (u64, Now),
        load: &mut Load,
    ) {
        let content = text.content.trim_ascii_end();
        if content.is_empty() || reading.source.drop.iter().any(|pattern| pattern.is_in(content)) {
            return;
        }
        let line = String::from_utf8_lossy(content);
        let record = record::parse(text, &line, reading.source.format, &file.origin, now.unix);
        let id = Id { file: file.id, offset: position + text.begin as u64, length: text.content.len() };
        load.batch.make_room(&line, self.most);
        self.encoder.add(&record, &file.origin, id, &mut load.batch);
    }

    /// Takes the beginning of a line that is longer than allowed, when its end is found.
    fn huge(
        &self,
        cursor: &mut Cursor,
        file: &Tailed,
        load: &mut Load,
        (end, now): (End, Now),
    ) -> io::Result<Looked> {
        cursor.searched = cursor.searched.max(cursor.position + LONGEST as u64);
        let mut portion = vec![0; PORTION];
        let next = loop {
            let read = file.read(&mut portion, cursor.searched)?;
            if let Some(at) = memchr::memchr(b'\n', portion.get(..read).unwrap_or_default()) {
                break cursor.searched + at as u64 + 1;
            }
            cursor.searched += read as u64;
            let is_over = read < portion.len() && end == End::Over;
            if is_over || cursor.searched - cursor.position >= HUGE {
                break cursor.searched;
            }
            if read < portion.len() {
                return Ok(Looked::Nothing);
            }
        };
        portion.resize(LONGEST, 0);
        let read = file.read(&mut portion, cursor.position)?;
        portion.truncate(read);
        if let Some(reading) = self.readings.get(file.origin.source) {
            let text = Text { begin: 0, content: portion.into(), time: None, stream: None, is_cut: true };
            self.add(reading, &text, file, (cursor.position, now), load);
        }
        cursor.jump(file, next);
        Ok(Looked::Taken)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;
    use std::path::PathBuf;

    use pillion_model::logs::{Destination, Sink, SinkUrl};
    use pillion_model::{Pattern, Workload};
    use serde_json::Value;

    use super::*;
    use crate::catalog::Shelf;

    /// A source with one file, and one sink that reads it.
    struct Story {
        root: PathBuf,
        logs: Logs,
        catalog: Catalog,
        tail: Tail,
        lost: u64,
    }

    fn opened(logs: &Logs) -> Catalog {
        Catalog::open(logs, &Workload::default(), &Shelf::default(), Instant::now()).unwrap()
    }

    impl Drop for Story {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.root));
        }
    }

    impl Story {
        fn new(content: &[u8], change: impl FnOnce(&mut Source)) -> Self {
            let root = std::env::temp_dir().join(format!(
                "pillion-tail-{}-{}",
                std::process::id(),
                fastrand::u64(..)
            ));
            fs::create_dir_all(root.join("state")).unwrap();
            fs::write(root.join("a.log"), content).unwrap();
            let mut source =
                Source { files: vec![format!("{}/*.log", root.display())], ..Source::new("app") };
            change(&mut source);
            let to = Destination::Http { url: SinkUrl::new("http://127.0.0.1:1").unwrap() };
            let sink = Sink { name: "hook".to_owned(), to, headers: Vec::new(), trust_bundle: None };
            let logs = Logs {
                sources: vec![source],
                sinks: vec![sink],
                checkpoint: root.join("state"),
                ..Logs::default()
            };
            let catalog = opened(&logs);
            let tail = Tail::new(0, &logs, Encoder::Lines, 64 * 1024);
            Self { root, logs, catalog, tail, lost: 0 }
        }

        fn path(&self) -> PathBuf {
            self.root.join("a.log")
        }

        fn append(&mut self, content: &[u8]) {
            fs::OpenOptions::new().append(true).open(self.path()).unwrap().write_all(content).unwrap();
            self.catalog.look(Instant::now());
        }

        /// All messages that can be taken now.
        fn take(&mut self, is_last: bool) -> Vec<String> {
            let mut messages = Vec::new();
            loop {
                let (mut load, now) = (Load::default(), Now { at: Instant::now(), unix: 0, is_last });
                let Some(lost) = self.tail.step(&mut self.catalog, &mut load, now) else { return messages };
                self.lost += lost;
                self.catalog.confirm(0, &load.reads);
                self.catalog.save();
                for line in load.batch.texts() {
                    let record: Value = serde_json::from_slice(line).unwrap();
                    let mark = if record["truncated"] == true { "…" } else { "" };
                    messages.push(format!("{}{mark}", record["message"].as_str().unwrap()));
                }
            }
        }

        fn restart(&mut self) {
            self.catalog = opened(&self.logs);
            self.tail = Tail::new(0, &self.logs, Encoder::Lines, 64 * 1024);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_taken_as_they_end() {
        let mut story = Story::new(b"one\r\n\ntw", |_| {});
        assert_eq!(story.take(false), ["one"]);
        story.append(b"o\nthr");
        assert_eq!(story.take(false), ["two"]);
        assert_eq!(story.take(true), ["thr"]);
        assert_eq!(story.catalog.lag(0, 0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_taken_twice_over_restarts_and_renames() {
        let mut story = Story::new(b"one\n", |_| {});
        let mut all = story.take(false);
        for round in 0..10 {
            story.append(format!("{round} a\n{round} b\n").as_bytes());
            if round % 2 == 0 {
                all.extend(story.take(false));
            }
            fs::rename(story.path(), story.root.join(format!("a.log.{round}"))).unwrap();
            fs::write(story.path(), format!("{round} new\n")).unwrap();
            if round % 3 == 0 {
                story.restart();
            } else {
                story.catalog.scan(Instant::now());
            }
            all.extend(story.take(false));
        }
        let mut expected = vec!["one".to_owned()];
        for round in 0..10 {
            expected.extend([format!("{round} a"), format!("{round} b"), format!("{round} new")]);
        }
        all.sort_unstable();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_truncated_file_is_read_from_its_beginning_and_what_is_lost_is_counted() {
        let mut story = Story::new(b"one\ntwo\n", |_| {});
        assert_eq!(story.take(false), ["one", "two"]);
        story.append(b"lost\n");
        fs::write(story.path(), "three\n").unwrap();
        story.catalog.look(Instant::now());
        assert_eq!((story.take(false), story.lost), (vec!["three".to_owned()], 5));
        // longer than before, so that only the bytes before the place tell
        fs::write(story.path(), "four is longer than three was\n").unwrap();
        story.catalog.look(Instant::now());
        assert_eq!(story.take(false), ["four is longer than three was"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_hole_of_a_truncated_file_is_left_out() {
        let mut story = Story::new(b"one\n", |_| {});
        assert_eq!(story.take(false), ["one"]);
        let file = fs::OpenOptions::new().write(true).open(story.path()).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(b"two\n", 1_000_000).unwrap();
        story.catalog.look(Instant::now());
        assert_eq!(story.take(false), ["two"]);
        assert_eq!(story.catalog.lag(0, 0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_huge_line_is_cut_and_the_next_one_is_whole() {
        let mut story = Story::new(&vec![b'x'; 1_000_000], |_| {});
        assert_eq!(story.take(false), [""; 0]);
        story.append(b"x\nnext\n");
        let taken = story.take(false);
        assert_eq!((taken[0].len(), &taken[1..]), (LONGEST + "…".len(), &["next".to_owned()][..]));
        assert!(taken[0].ends_with('…'));
        story.append(&vec![b'y'; 17 * 1024 * 1024]);
        assert_eq!(story.take(false).len(), 1, "no memory and no time is spent on a line without an end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_of_the_longest_kind_is_whole_with_what_follows() {
        let line = "z".repeat(LONGEST);
        let mut story = Story::new(format!("{line}\nnext\n").as_bytes(), |_| {});
        assert_eq!(story.take(false), [line.as_str(), "next"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nuls_at_the_end_of_a_file_wait_for_the_bytes_that_come_there() {
        let mut story = Story::new(b"one\n\0\0\0\0", |_| {});
        assert_eq!(story.take(false), ["one"]);
        let file = fs::OpenOptions::new().write(true).open(story.path()).unwrap();
        file.write_all_at(b"two\n", 4).unwrap();
        assert_eq!(story.take(false), ["two"]);
        story.append(b"\0\0");
        assert_eq!(story.take(true), [""; 0]);
        assert_eq!(story.catalog.lag(0, 0), 0, "no further byte comes");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_line_of_a_file_is_taken_without_its_end_however_long_it_is() {
        for length in [LARGE_PORTION, LARGE_PORTION + 1, 1_000_000] {
            let mut story = Story::new(&vec![b'x'; length], |_| {});
            assert_eq!(story.take(true).len(), 1, "{length}");
            assert_eq!(story.catalog.lag(0, 0), 0, "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_for_a_while_is_read_later() {
        let mut story = Story::new(b"one\n", |_| {});
        tokio::time::advance(std::time::Duration::from_mins(1)).await; // no line waits for anything any more
        let folder = fs::File::open(&story.root).unwrap(); // a read of it fails
        let file = story.catalog.files.get_mut(&0).unwrap().replace_file(folder).unwrap();
        assert_eq!(story.take(false), [""; 0]);
        story.catalog.files.get_mut(&0).unwrap().replace_file(file);
        assert!(story.catalog.look(Instant::now()), "the sinks are told");
        assert_eq!(story.take(false), ["one"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_and_not_taken_is_read_again() {
        let mut story = Story::new(b"one\ntwo\n", |_| {});
        let (mut load, now) = (Load::default(), Now { at: Instant::now(), unix: 0, is_last: false });
        story.tail.step(&mut story.catalog, &mut load, now);
        assert_eq!(load.batch.documents.len(), 2);
        story.tail.rewind(&mut story.catalog, &load.reads, now.at);
        story.append(b"three\n");
        assert_eq!(story.take(false), ["one", "two", "three"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_ahead_is_read_again_from_the_mark() {
        let mut story = Story::new(b"one\n", |_| {});
        let (mut load, now) = (Load::default(), Now { at: Instant::now(), unix: 0, is_last: false });
        story.tail.step(&mut story.catalog, &mut load, now);
        let mark = story.tail.mark();
        story.append(b"two\n");
        fs::write(story.root.join("b.log"), "three\n").unwrap();
        story.catalog.scan(Instant::now());
        let (mut ahead, mut seen) = (Load::default(), 0);
        while story.tail.step(&mut story.catalog, &mut ahead, now).is_some() {
            seen += 1;
        }
        story.tail.back_to(mark);
        assert_eq!((seen, ahead.batch.documents.len()), (2, 2));
        let mut again = story.take(false);
        again.sort_unstable();
        assert_eq!(again, ["three", "two"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_and_not_taken_is_counted_if_the_file_is_truncated_meanwhile() {
        for (taken, new, is_seen) in [
            (true, "new", false),
            (true, "new", true),
            (true, "three is longer", false),
            (true, "three is longer", true),
            (false, "three is longer", false),
            (false, "three is longer", true),
            (false, "new", true),
        ] {
            let mut story = Story::new(if taken { b"one\n" } else { b"" }, |_| {});
            story.take(false);
            story.append(b"two\nlost\n");
            let (mut load, now) = (Load::default(), Now { at: Instant::now(), unix: 0, is_last: false });
            story.tail.step(&mut story.catalog, &mut load, now);
            fs::write(story.path(), format!("{new}\n")).unwrap();
            if is_seen {
                story.catalog.look(Instant::now());
            }
            story.tail.rewind(&mut story.catalog, &load.reads, now.at);
            assert_eq!(story.take(false), [new]);
            assert_eq!(story.lost, 9, "{taken} {new} {is_seen}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_load_has_of_both_sides_of_a_truncation_is_counted_if_it_is_not_taken() {
        for (is_stopped, new_lost) in [(false, 0), (true, 0), (true, 7)] {
            let mut story = Story::new(b"one\n", |_| {});
            story.take(false);
            story.append(b"two\nlost\n");
            let (mut load, now) = (Load::default(), Now { at: Instant::now(), unix: 0, is_last: false });
            story.tail.step(&mut story.catalog, &mut load, now);
            fs::write(story.path(), "new\n").unwrap();
            story.catalog.look(Instant::now());
            let mut lost = story.tail.step(&mut story.catalog, &mut load, now).unwrap();
            assert_eq!((lost, load.batch.documents.len()), (0, 3), "nothing is lost yet");
            if new_lost > 0 {
                story.append(b"xy\n");
                fs::write(story.path(), "z\n").unwrap();
                story.catalog.look(Instant::now());
            }
            lost += match is_stopped {
                false => story.tail.rewind(&mut story.catalog, &load.reads, now.at),
                true => story.tail.leave(&mut story.catalog, &load.reads, now.at),
            };
            assert_eq!(lost, 9 + new_lost);
            assert_eq!(story.take(false), [if new_lost > 0 { "z" } else { "new" }]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_truncation_that_nobody_has_seen_is_found_after_a_reload() {
        let mut story = Story::new(b"one\n", |_| {});
        assert_eq!(story.take(false), ["one"]);
        fs::write(story.path(), "two is longer\n").unwrap();
        story.tail = Tail::new(0, &story.logs, Encoder::Lines, 64 * 1024);
        story.catalog.look(Instant::now());
        assert_eq!(story.take(false), ["two is longer"]);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_not_utf_8_are_replaced() {
        let mut story = Story::new(b"caf\xe9\n", |_| {});
        assert_eq!(story.take(false), ["caf\u{fffd}"]);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_fit_drop_are_left_out_and_do_not_stay() {
        let mut story = Story::new(b"DEBUG a\nINFO b\nDEBUG c\n", |source| {
            source.drop = vec![Pattern::new("^DEBUG").unwrap()];
        });
        assert_eq!(story.take(false), ["INFO b"]);
        assert_eq!(story.catalog.lag(0, 0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stack_trace_waits_for_its_end_or_for_a_quiet_second() {
        let mut story =
            Story::new(b"2026 a\n at b\n", |source| source.starts = Some(Pattern::new(r"^\d").unwrap()));
        assert_eq!(story.take(false), [""; 0]);
        story.append(b" at c\n2027 d\n");
        assert_eq!(story.take(false), ["2026 a\n at b\n at c"]);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(story.take(false), ["2027 d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_lines_are_taken_in_batches_without_a_gap() {
        let lines: Vec<String> = (0..20_000).map(|nth| format!("line {nth}")).collect();
        let mut story = Story::new(format!("{}\n", lines.join("\n")).as_bytes(), |_| {});
        assert_eq!(story.take(false), lines);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_line_of_a_file_that_is_gone_is_taken_after_a_while() {
        let mut story = Story::new(b"one\ntwo", |_| {});
        assert_eq!(story.take(false), ["one"]);
        fs::remove_file(story.path()).unwrap();
        story.catalog.scan(Instant::now());
        assert_eq!(story.take(false), [""; 0]);
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        assert_eq!(story.take(false), ["two"]);
    }
}
