//! Lines and words of a configuration file.
//!
//! Pure. Invariant: every logical line has the number of its first line in the file.

/// Joins lines that end with `\`. Each logical line has the number of its first line.
pub(super) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (i, line) in text.lines().enumerate() {
        let (line, joins) = match line.strip_suffix('\\') {
            Some(rest) if !ends_in_comment(rest) => (rest, true),
            _ => (line, false),
        };
        match lines.last_mut().filter(|_| is_continued) {
            Some((_, text)) => *text += line,
            None => lines.push((i + 1, line.to_owned())),
        }
        is_continued = joins;
    }
    lines
}

/// Whether text appended to `text` would be part of a comment.
fn ends_in_comment(text: &str) -> bool {
    const MORE: &str = "more";
    let words = shlex::split(&format!("{text} {MORE}"));
    words.is_some_and(|words| words.last().is_none_or(|word| word != MORE))
}

/// Splits a logical line into words. A line without words is empty.
///
/// # Errors
/// The mistake in the line.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let words = shlex::split(text).ok_or("a quote is not closed, or a backslash ends the line")?;
    if words.iter().any(|word| word.contains(char::REPLACEMENT_CHARACTER)) {
        return Err("it is not UTF-8".to_owned());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("there is a zero byte in it".to_owned());
    }
    Ok(words)
}
