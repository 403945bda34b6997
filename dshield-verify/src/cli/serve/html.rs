//! HTML in which only this program's own texts are markup: all else is escaped on its way in.
//!
//! [`Html::markup`] takes only what the compiler saw; what a deployment, an operator or a stranger chose goes through
//! [`Html::text`], and is the same in an element and between the quotes of an attribute.
use crate::client::printable;

/// Characters of one text; more is for the JSON.
const MOST: usize = 4000;

#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup, all of it written here.
    pub(super) fn markup(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text in one line, whoever chose it.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let cut = text.char_indices().nth(MOST).map_or(text.len(), |(at, _)| at);
        for c in printable(&text[..cut]).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        if cut < text.len() {
            self.0.push_str(" … (more in the JSON)");
        }
        self
    }

    /// A number.
    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.0.push_str(&number.to_string());
        self
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.finish()
    }

    #[test]
    fn no_text_is_markup_nor_leaves_its_attribute_nor_turns_around() {
        assert_eq!(text("<script>a & b</script>"), "&lt;script&gt;a &amp; b&lt;/script&gt;");
        assert_eq!(text("\" onload='x'"), "&quot; onload=&#39;x&#39;");
        assert_eq!(text("a\u{202e}b\u{0}\nc"), "a\\u{202e}b\\u{0}\\u{a}c");
        assert_eq!(text("é & ü"), "é &amp; ü");
    }

    #[test]
    fn a_text_without_end_is_cut() {
        let long = text(&"<é".repeat(MOST));
        assert!(long.ends_with("é … (more in the JSON)"), "{}", &long[long.len() - 60..]);
        assert_eq!(long.matches("&lt;").count(), MOST / 2);
    }
}
