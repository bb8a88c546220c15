export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

/**
 * The part that lives in the shell. It only asks `labctl __complete words -- WORDS`, which answers with a candidate a line,
 * a tab and its description behind; `:files` and `:dirs` ask for the shell's own completion of paths.
 */
export function completionScript(shell: Shell): string {
  switch (shell) {
    case "bash":
      return BASH;
    case "zsh":
      return ZSH;
    case "fish":
      return FISH;
  }
}

/* Bash breaks words at `=` and `:` too and leaves quotes in them: the whole line goes to labctl, which sorts that out. */
const BASH = `# labctl completion for bash
_labctl() {
  local line=\${COMP_LINE:0:COMP_POINT} candidate
  COMPREPLY=()
  while IFS= read -r candidate; do
    case $candidate in
      '') ;;
      :files) compopt -o default -o filenames; return 0 ;;
      :dirs) compopt -o dirnames; return 0 ;;
      *) COMPREPLY+=("$candidate") ;;
    esac
  done < <("$1" __complete bash -- "\${COMP_WORDS[COMP_CWORD]}" "$line" 2>/dev/null)
  case \${COMPREPLY[0]-} in *=) compopt -o nospace ;; esac
}
complete -F _labctl labctl
`;

const ZSH = `#compdef labctl
# labctl completion for zsh
_labctl() {
  local -a words_now candidates descriptions
  local line value description
  words_now=("\${(@Q)words[2,CURRENT-1]}")
  # Inside an open quote the word is what stands there; outside its backslashes are the shell's.
  if [[ -n $compstate[quote] ]]; then words_now+=("$PREFIX"); else words_now+=("\${(Q)PREFIX}"); fi
  while IFS= read -r line; do
    value=\${line%%$'\\t'*}
    description=\${line#*$'\\t'}
    case $value in
      '') continue ;;
      :files) _files; return ;;
      :dirs) _files -/; return ;;
    esac
    candidates+=("$value")
    [[ $description == $line ]] && descriptions+=("$value") || descriptions+=("$value  -- $description")
  done < <("\${(Q)words[1]}" __complete words -- "\${words_now[@]}" 2>/dev/null)
  (( \${#candidates} )) || return 1
  compadd -l -d descriptions -a candidates
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _labctl "$@"
else
  compdef _labctl labctl
fi
`;

const FISH = `# labctl completion for fish
function __labctl_complete
  set -l words (commandline -opc)
  set -l current (commandline -ct | string unescape 2>/dev/null; or commandline -ct)
  set -l command $words[1]
  set -e words[1]
  for line in ($command __complete words -- $words "$current" 2>/dev/null)
    switch $line
      case ':files'
        __fish_complete_path "$current"
      case ':dirs'
        __fish_complete_directories "$current"
      case '*'
        echo $line
    end
  end
end
complete -c labctl -f -a '(__labctl_complete)'
`;
