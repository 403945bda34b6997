//! Finding a function's code, and what its runtime needs in it.
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dshield_common::policy::{Diagnostic, Function, Positions, Runtime};

use super::contents;

/// The absolute code folder of `function`, which stands in a file in `folder`.
pub(super) fn locate(folder: &Path, function: &Function, positions: &Positions) -> Result<PathBuf, Diagnostic> {
    let problem = |message: String, hint: &str| Diagnostic::new(positions.code, message, Some(hint.to_owned()));
    let written = &function.code;
    let code = folder.join(written).canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => problem(
            format!("the code folder {written:?} does not exist"),
            "make it, or correct `code`, which is relative to this file",
        ),
        _ => problem(
            format!("the code folder {written:?} cannot be reached: {error}"),
            "correct `code`, or the permissions on the way to it",
        ),
    })?;
    if !code.is_dir() {
        let hint = "`code` names the folder with the function's files";
        return Err(problem(format!("{written:?} is not a folder"), hint));
    }
    contents::check(&code).map_err(|unfit| problem(unfit.message, unfit.hint))?;
    match function.runtime {
        Runtime::Python3 => has_module(&code, function, positions, &[".py", "/__init__.py"])?,
        Runtime::Node => has_module(&code, function, positions, &[".js", ".mjs", ".cjs"])?,
        Runtime::Native => has_bootstrap(&code).map_err(|(message, hint)| problem(message, hint))?,
    }
    Ok(code)
}

fn has_module(code: &Path, function: &Function, positions: &Positions, endings: &[&str]) -> Result<(), Diagnostic> {
    let Some((module, _)) = function.handler_parts() else {
        return Ok(());
    };
    let files: Vec<String> = endings.iter().map(|ending| format!("{module}{ending}")).collect();
    if files.iter().any(|file| code.join(file).is_file()) {
        return Ok(());
    }
    let handler = function.handler.as_deref().unwrap_or_default();
    let message = format!(
        "the handler {handler:?} needs one of the files {}, but none is in {}",
        files.join(", "),
        code.display()
    );
    let hint = "write it, or correct `handler`".to_owned();
    Err(Diagnostic::new(positions.handler, message, Some(hint)))
}

fn has_bootstrap(code: &Path) -> Result<(), (String, &'static str)> {
    let bootstrap = code.join("bootstrap");
    match bootstrap.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(metadata) if metadata.is_file() => {
            Err((format!("{} is not executable", bootstrap.display()), "run chmod +x on it"))
        }
        _ => Err((
            format!("a native function needs the file `bootstrap`, which is not in {}", code.display()),
            "put the executable there under that name",
        )),
    }
}
