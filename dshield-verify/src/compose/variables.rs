//! Values that are chosen after the compose hash was: `$NAME` in a compose file, and names in `allowed_envs`.
use super::yaml::Node;

/// The first variable that docker compose would put a value for, anywhere in `node`. `$$` is a dollar sign.
pub(super) fn first(node: &Node) -> Option<String> {
    node.texts().into_iter().find_map(first_in)
}

/// [`first`] in one text.
pub(super) fn first_in(text: &str) -> Option<String> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('{').unwrap_or(rest);
        let end = name.find(|one: char| one != '_' && !one.is_ascii_alphanumeric()).unwrap_or(name.len());
        return Some(name[..end].to_owned());
    }
    None
}

/// Why a value must not come from a variable.
pub(super) fn sentence(name: &str, allowed_envs: &[String]) -> String {
    if allowed_envs.iter().any(|one| one == name) {
        format!(
            "takes its value from the variable {name}, which allowed_envs lets whoever deploys choose after the compose hash is approved; write the value"
        )
    } else {
        format!("takes its value from the variable {name:?}, which the compose hash does not cover; write the value")
    }
}

/// Whether a program that runs with this variable, such as docker compose or the agent, may run or read something else for
/// it.
pub(super) fn steers(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "APP_COMPOSE_FILE",
        "CDPATH",
        "ENV",
        "GCONV_PATH",
        "GLOBIGNORE",
        "HOME",
        "HOSTALIASES",
        "IFS",
        "LOCALDOMAIN",
        "LOCPATH",
        "NLSPATH",
        "PATH",
        "PCCS_URL",
        "PS4",
        "RES_OPTIONS",
        "SHELL",
        "SHELLOPTS",
        "TMPDIR",
    ];
    const PREFIXES: &[&str] = &[
        "BASH",
        "BUILDKIT_",
        "BUILDX_",
        "COMPOSE_",
        "CONTAINER",
        "DOCKER_",
        "DSHIELD_",
        "DSTACK_",
        "GLIBC_",
        "GODEBUG",
        "JQ_",
        "LD_",
        "MALLOC_",
        "NERDCTL_",
        "OTEL_",
        "RUST_",
        "SSL_",
        "XDG_",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
