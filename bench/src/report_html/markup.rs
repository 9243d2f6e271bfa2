//! Text that is safe to put into a page. Imports nothing.

/// `text` without any meaning as markup.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A row of cells, each escaped; `tag` is `td` or `th`.
pub(super) fn row<T: AsRef<str>>(tag: &str, cells: impl IntoIterator<Item = T>) -> String {
    let cells: String = cells
        .into_iter()
        .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell.as_ref())))
        .collect();
    format!("<tr>{cells}</tr>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
        assert_eq!(row("td", ["1", "<"]), "<tr><td>1</td><td>&lt;</td></tr>\n");
    }
}
