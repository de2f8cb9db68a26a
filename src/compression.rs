//! Compressed copies of files: zstd frames, or gzip. Written beside the source and named only once whole, so that an
//! interrupted run leaves no half file under the name. What is there already stays, unless it is to be overwritten: the same
//! bytes are as good as a new file, others are refused.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::error::{Error, Kind, Result};
use crate::output::{Copied, Output, fill, trouble};

/// How much is read at once.
const BLOCK: usize = 256 << 10;
/// No window of a zstd frame may ask for more memory than this, whatever the frame says: 2^27 bytes, as `zstd` itself.
const WINDOW_LOG: u32 = 27;

/// The form of a compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One or more zstd frames, with a checksum of the content in each that we write; `.zst`.
    Zstd,
    /// One or more gzip members; `.gz`.
    Gzip,
}

impl Format {
    /// What is put behind a compressed file's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }

    /// By the first bytes of a file.
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            // The second: a skippable frame may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// Called with the bytes read so far anew; an error ends the work.
pub type Watch<'a> = &'a dyn Fn(u64) -> Result<()>;

/// Compresses `source` into `target`, or into its own name with `.zst` or `.gz` behind it. A file in that place is
/// replaced only with `overwrite`; one with the same bytes stays, and is as good.
///
/// # Errors
/// [`Kind::InvalidArgument`] for a level that is not 1 to 9, or where the target is there; [`Kind::Storage`] where a file
/// cannot be read or written.
pub fn compress(
    source: &Path,
    target: Option<&Path>,
    format: Format,
    level: u8,
    overwrite: bool,
    watch: Watch,
) -> Result<Copied> {
    if !(1..=9).contains(&level) {
        return Err(Error::new(Kind::InvalidArgument, format!("compression_level has to be 1 to 9, not {level}")));
    }
    let mut input = open(source)?;
    let path = target.map_or_else(|| suffixed(source, format), Path::to_owned);
    let output = Output::create(&path, overwrite)?;
    let failed = |error: io::Error| trouble("written", &path, &error);
    match format {
        Format::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(output, level.into()).map_err(failed)?;
            encoder.include_checksum(true).map_err(failed)?;
            if let Ok(metadata) = input.metadata() {
                encoder.set_pledged_src_size(Some(metadata.len())).map_err(failed)?;
                encoder.include_contentsize(true).map_err(failed)?;
            }
            let read = pump(&mut input, source, &mut encoder, &path, u64::MAX, watch)?;
            encoder.finish().map_err(failed)?.commit(path, read)
        }
        Format::Gzip => {
            let mut encoder = GzEncoder::new(output, Compression::new(level.into()));
            let read = pump(&mut input, source, &mut encoder, &path, u64::MAX, watch)?;
            encoder.finish().map_err(failed)?.commit(path, read)
        }
    }
}

/// Unpacks a zstd or gzip file, told by its first bytes, into `target`, or into its own name without the suffix. More
/// than `ceiling` bytes are refused, and nothing is left of them.
///
/// # Errors
/// [`Kind::BackupCorrupted`] where the file is damaged, cut short, neither of the two, or over the ceiling;
/// [`Kind::InvalidArgument`] where the target is there, or has no name of its own; [`Kind::Storage`] as for [`compress`].
pub fn decompress(source: &Path, target: Option<&Path>, ceiling: u64, overwrite: bool, watch: Watch) -> Result<Copied> {
    let mut input = open(source)?;
    let mut start = [0; 4];
    let count = fill(&mut input, &mut start).map_err(|error| trouble("read", source, &error))?;
    let format = Format::of(&start[..count])
        .ok_or_else(|| damaged(source, "is neither a zstd nor a gzip file; it may be packed by something else"))?;
    let path = match target {
        Some(target) => target.to_owned(),
        None => stripped(source, format)?,
    };
    let mut output = Output::create(&path, overwrite)?;
    let rest = io::Cursor::new(start[..count].to_vec()).chain(input);
    let read = match format {
        Format::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::new(rest).map_err(|error| trouble("read", source, &error))?;
            decoder.window_log_max(WINDOW_LOG).map_err(|error| trouble("read", source, &error))?;
            pump(&mut decoder, source, &mut output, &path, ceiling, watch)?
        }
        Format::Gzip => pump(
            &mut MultiGzDecoder::new(io::BufReader::with_capacity(BLOCK, rest)),
            source,
            &mut output,
            &path,
            ceiling,
            watch,
        )?,
    };
    output.commit(path, read)
}

/// Copies all of `from` to `to`, up to `ceiling` bytes.
fn pump(
    from: &mut impl Read,
    source: &Path,
    to: &mut impl Write,
    target: &Path,
    ceiling: u64,
    watch: Watch,
) -> Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        let count = match from.read(&mut block) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Errors of the system have a number; what a decoder finds wrong has none.
            Err(error) if error.raw_os_error().is_some() => return Err(trouble("read", source, &error)),
            Err(error) => return Err(damaged(source, &format!("is damaged or cut short: {error}"))),
        };
        total += count as u64;
        if total > ceiling {
            return Err(damaged(
                source,
                &format!("unpacks to more than {ceiling} bytes, the ceiling; raise max_output_bytes if that is right"),
            )
            .with("ceiling", ceiling));
        }
        to.write_all(&block[..count]).map_err(|error| trouble("written", target, &error))?;
        watch(count as u64)?;
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| trouble("read", path, &error))
}

fn suffixed(path: &Path, format: Format) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(format.suffix());
    name.into()
}

fn stripped(path: &Path, format: Format) -> Result<PathBuf> {
    if path.extension().is_some_and(|suffix| suffix == format.suffix()) {
        return Ok(path.with_extension(""));
    }
    Err(Error::new(
        Kind::InvalidArgument,
        format!(
            "{} does not end in .{}, so the unpacked file has no name of its own; give output_path",
            path.display(),
            format.suffix()
        ),
    ))
}

fn damaged(path: &Path, what: &str) -> Error {
    let shown = path.display().to_string();
    Error::new(Kind::BackupCorrupted, format!("{shown} {what}")).with("failed_files", vec![shown])
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Watch = &|_| Ok(());

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.bin");
        for bytes in [vec![], b"short".to_vec(), b"again and again ".repeat(200_000)] {
            std::fs::write(&path, &bytes).unwrap();
            for (format, level) in [(Format::Zstd, 1), (Format::Zstd, 9), (Format::Gzip, 6)] {
                let packed = compress(&path, None, format, level, true, QUIET).unwrap();
                assert_eq!(packed.read, bytes.len() as u64);
                assert_eq!(packed.written, packed.path.metadata().unwrap().len());
                let target = folder.path().join("back");
                let back = decompress(&packed.path, Some(&target), u64::MAX, true, QUIET).unwrap();
                assert_eq!((std::fs::read(&target).unwrap(), back.written), (bytes.clone(), bytes.len() as u64));
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_ceiling_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeros");
        std::fs::write(&path, vec![0; 4 << 20]).unwrap();
        for format in [Format::Zstd, Format::Gzip] {
            let packed = compress(&path, None, format, 9, false, QUIET).unwrap().path;
            let target = folder.path().join("out");
            let error = decompress(&packed, Some(&target), (4 << 20) - 1, false, QUIET).unwrap_err();
            assert_eq!(error.kind(), Kind::BackupCorrupted);
            assert!(error.message().contains("ceiling"));
            assert!(!target.exists());
            decompress(&packed, Some(&target), 4 << 20, false, QUIET).unwrap();
            std::fs::remove_file(target).unwrap();
        }
        assert_eq!(names(folder.path()), ["zeros", "zeros.gz", "zeros.zst"]);
    }

    #[test]
    fn a_window_beyond_measure_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.zst");
        // A frame of one raw block whose header asks for a window of 2^40 bytes.
        std::fs::write(&path, [0x28, 0xb5, 0x2f, 0xfd, 0x00, 30 << 3, 0x01, 0x00, 0x00]).unwrap();
        let error = decompress(&path, None, u64::MAX, false, QUIET).unwrap_err();
        assert_eq!(error.kind(), Kind::BackupCorrupted);
    }

    #[test]
    fn damage_is_told_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, b"some rows, ".repeat(10_000)).unwrap();
        for format in [Format::Zstd, Format::Gzip] {
            let packed = compress(&path, None, format, 3, false, QUIET).unwrap().path;
            let whole = std::fs::read(&packed).unwrap();
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            for bytes in [flipped, whole[..whole.len() - 5].to_vec(), whole[..3].to_vec(), b"none at all".to_vec()] {
                std::fs::write(&packed, bytes).unwrap();
                let target = folder.path().join("out");
                let error = decompress(&packed, Some(&target), u64::MAX, false, QUIET).unwrap_err();
                assert_eq!(error.kind(), Kind::BackupCorrupted, "{error}");
                assert!(!target.exists());
            }
            std::fs::remove_file(packed).unwrap();
        }
        assert_eq!(names(folder.path()), ["rows"]);
    }

    #[test]
    fn nothing_is_overwritten_unasked_and_nothing_is_left_when_canceled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, b"rows").unwrap();
        std::fs::write(folder.path().join("rows.zst"), b"mine").unwrap();
        let error = compress(&path, None, Format::Zstd, 3, false, QUIET).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let packed =
            compress(&path, Some(&folder.path().join("other.gz")), Format::Gzip, 3, false, QUIET).unwrap().path;
        assert_eq!(compress(&path, Some(&packed), Format::Gzip, 3, false, QUIET).unwrap().path, packed);
        let back = folder.path().join("other");
        for _ in 0..2 {
            assert_eq!(decompress(&packed, None, 100, false, QUIET).unwrap().path, back);
        }
        std::fs::write(&back, b"sorw").unwrap();
        assert_eq!(decompress(&packed, None, 100, false, QUIET).unwrap_err().kind(), Kind::InvalidArgument);
        std::fs::remove_file(back).unwrap();
        std::fs::remove_file(packed).unwrap();
        assert_eq!(std::fs::read(folder.path().join("rows.zst")).unwrap(), b"mine");
        let canceled: Watch = &|_| Err(Error::new(Kind::Canceled, "canceled"));
        assert_eq!(compress(&path, None, Format::Gzip, 3, false, canceled).unwrap_err().kind(), Kind::Canceled);
        assert_eq!(names(folder.path()), ["rows", "rows.zst"]);
        assert_eq!(compress(&path, None, Format::Gzip, 0, false, QUIET).unwrap_err().kind(), Kind::InvalidArgument);
    }
}
