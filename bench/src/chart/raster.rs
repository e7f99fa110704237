//! A bitmap image that is stored as PNG.
//!
//! The font is a set of bitmaps inside the program, so the machine needs no fonts.
//!
//! Invariant: drawing outside the image does nothing.

use std::{fs::File, io::BufWriter, path::Path};

use anyhow::{Context as _, Result};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use plotters_backend::{
    BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontStyle,
    text_anchor::{HPos, VPos},
};

use super::Never;

const HEIGHT: RasterHeight = RasterHeight::Size16;

/// The image.
pub(super) struct Raster {
    size: (u32, u32),
    /// Red, green and blue of each pixel, row after row.
    pixels: Vec<u8>,
}

impl Raster {
    /// Makes a black image.
    pub(super) fn new(size: (u32, u32)) -> Self {
        Self { size, pixels: vec![0; 3 * size.0 as usize * size.1 as usize] }
    }

    /// Writes the image to a file.
    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let error = || format!("cannot write {}", file.display());
        let writer = BufWriter::new(File::create(file).with_context(error)?);
        let mut encoder = png::Encoder::new(writer, self.size.0, self.size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().with_context(error)?;
        writer.write_image_data(&self.pixels).with_context(error)?;
        writer.finish().with_context(error)
    }

    fn blend(&mut self, (x, y): BackendCoord, color: BackendColor, alpha: f64) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if x >= self.size.0 || y >= self.size.1 {
            return;
        }
        let at = 3 * (y as usize * self.size.0 as usize + x as usize);
        let (r, g, b) = color.rgb;
        for (old, new) in self.pixels[at..at + 3].iter_mut().zip([r, g, b]) {
            *old = (f64::from(*old) * (1.0 - alpha) + f64::from(new) * alpha).round() as u8;
        }
    }
}

impl DrawingBackend for &mut Raster {
    type ErrorType = Never;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Never>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Never>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        at: BackendCoord,
        color: BackendColor,
    ) -> Result<(), DrawingErrorKind<Never>> {
        self.blend(at, color, color.alpha);
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): BackendCoord,
    ) -> Result<(), DrawingErrorKind<Never>> {
        let bold = matches!(style.style(), FontStyle::Bold);
        let weight = if bold { FontWeight::Bold } else { FontWeight::Regular };
        let step = get_raster_width(weight, HEIGHT) as i32;
        let width = step * text.chars().count() as i32;
        let height = HEIGHT.val() as i32;
        let mut left = match style.anchor().h_pos {
            HPos::Left => x,
            HPos::Center => x - width / 2,
            HPos::Right => x - width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => y,
            VPos::Center => y - height / 2,
            VPos::Bottom => y - height,
        };
        for letter in text.chars() {
            let letter = get_raster(letter, weight, HEIGHT).or(get_raster('?', weight, HEIGHT));
            for (row, line) in letter.iter().flat_map(|letter| letter.rows()).enumerate() {
                for (column, shade) in line.iter().enumerate() {
                    let alpha = style.color().alpha * f64::from(*shade) / 255.0;
                    self.blend((left + column as i32, top + row as i32), style.color(), alpha);
                }
            }
            left += step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_outside_the_image_changes_no_pixel() {
        let mut raster = Raster::new((2, 2));
        let color = BackendColor { alpha: 1.0, rgb: (1, 2, 3) };
        for at in [(-1, 0), (2, 0), (0, 2), (0, -1)] {
            raster.blend(at, color, 1.0);
        }
        assert!(raster.pixels.iter().all(|&byte| byte == 0));
        raster.blend((1, 1), color, 1.0);
        assert_eq!(raster.pixels[9..], [1, 2, 3]);
    }
}
