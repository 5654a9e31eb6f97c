//! `[snapshot] skip`: which files a snapshot leaves out.

use globset::{Glob, GlobMatcher};
use std::path::Path;

/// The rules, compiled. `logs/` names a directory at the top of the instance; a pattern without `/` is matched
/// against the last component at any depth; any other against the whole path below the instance.
#[derive(Debug, Clone, Default)]
pub struct Skip {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    text: String,
    matcher: GlobMatcher,
    directories_only: bool,
    by_name: bool,
}

impl Skip {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// The first pattern that is not a glob, with the reason.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, globset::Error> {
        let rules = patterns.iter().map(|p| Rule::new(p.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// The rule that leaves `path` (below the instance) out, if there is one.
    #[must_use]
    pub fn rule_for(&self, path: &Path, is_directory: bool) -> Option<&str> {
        self.rules.iter().find(|rule| rule.matches(path, is_directory)).map(|rule| rule.text.as_str())
    }
}

impl Rule {
    fn new(text: &str) -> Result<Self, globset::Error> {
        let pattern = text.trim_end_matches('/');
        let directories_only = pattern.len() < text.len();
        let by_name = !directories_only && !pattern.contains('/');
        Ok(Self {
            text: text.to_owned(),
            matcher: Glob::new(pattern.trim_start_matches('/'))?.compile_matcher(),
            directories_only,
            by_name,
        })
    }

    fn matches(&self, path: &Path, is_directory: bool) -> bool {
        if self.directories_only && !is_directory {
            return false;
        }
        let subject = if self.by_name { path.file_name().map_or(path, Path::new) } else { path };
        self.matcher.is_match(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_names_a_directory_at_the_top_and_a_bare_pattern_a_name_at_any_depth() {
        let skip = Skip::new(&["logs/", "*.tmp", "run/*.json"]).unwrap();
        assert_eq!(skip.rule_for(Path::new("logs"), true), Some("logs/"));
        assert_eq!(skip.rule_for(Path::new("logs"), false), None);
        assert_eq!(skip.rule_for(Path::new("data/logs"), true), None);
        assert_eq!(skip.rule_for(Path::new("a/b/x.tmp"), false), Some("*.tmp"));
        assert_eq!(skip.rule_for(Path::new("run/x.json"), false), Some("run/*.json"));
        assert_eq!(skip.rule_for(Path::new("overlay.raw"), false), None);
    }
}
