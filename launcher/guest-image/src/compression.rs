//! The compressions that distributions use for kernels and modules, told apart by their first bytes.

use std::io::{self, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Why data cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// The data is damaged or cut short.
    #[error("damaged {format} data: {source}")]
    Damaged {
        /// The compression's name.
        format: &'static str,
        /// What its decoder says.
        source: io::Error,
    },
}

/// A known compression.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz format, with its filters.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// The compression that these bytes start with.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        [(GZIP, Self::Gzip), (XZ, Self::Xz), (ZSTD, Self::Zstd)]
            .into_iter()
            .find_map(|(magic, format)| bytes.starts_with(magic).then_some(format))
    }

    /// The content of the one stream that `bytes` starts with; what follows the stream is not looked at.
    pub(crate) fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>, DecompressError> {
        let mut content = Vec::new();
        let (format, done) = match self {
            Self::Gzip => ("gzip", flate2::read::GzDecoder::new(bytes).read_to_end(&mut content)),
            Self::Xz => ("xz", lzma_rust2::XzReader::new(bytes, false).read_to_end(&mut content)),
            Self::Zstd => ("zstd", unzstd(bytes, &mut content)),
        };
        done.map_err(|source| DecompressError::Damaged { format, source })?;
        Ok(content)
    }
}

fn unzstd(bytes: &[u8], content: &mut Vec<u8>) -> io::Result<usize> {
    ruzstd::decoding::StreamingDecoder::new(bytes).map_err(io::Error::other)?.read_to_end(content)
}

#[cfg(test)]
pub(crate) mod testing {
    use std::io::Write;

    /// gzip, as `gzip -9`.
    pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    /// xz with the x86 filter, as the kernel's build compresses itself.
    pub(crate) fn xz(content: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    /// zstd, lowest level.
    pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{gzip, xz, zstd};
    use super::*;

    /// Bytes with x86 calls in them, so that the x86 filter has something to change.
    fn sample() -> Vec<u8> {
        (0..5000u32).flat_map(|n| [[0xe8].as_slice(), &(n * 7 % 512).to_le_bytes(), &[0x90]].concat()).collect()
    }

    #[test]
    fn each_compression_is_recognised_and_gives_its_content_whatever_follows() {
        let sample = sample();
        for (packed, format) in
            [(gzip(&sample), Compression::Gzip), (xz(&sample), Compression::Xz), (zstd(&sample), Compression::Zstd)]
        {
            assert_eq!(Compression::of(&packed), Some(format));
            assert!(packed.len() < sample.len());
            let followed = [packed.as_slice(), &[7, 7, 7, 7]].concat();
            assert!(format.decompress(&followed).unwrap() == sample, "{format:?}");
        }
        assert_eq!(Compression::of(b"\x7fELF"), None);
        assert_eq!(Compression::of(b""), None);
    }

    #[test]
    fn cut_data_is_an_error_that_names_the_compression() {
        let sample = sample();
        for (packed, name) in [(gzip(&sample), "gzip"), (xz(&sample), "xz"), (zstd(&sample), "zstd")] {
            let format = Compression::of(&packed).unwrap();
            let error = format.decompress(&packed[..packed.len() / 2]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
