#compdef nacrefs

_nacrefs() {
    local -a answer values shown space
    local line hints
    answer=("${(@f)$(command ${(Q)words[1]} complete zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    hints=$answer[1]
    for line in "${(@)answer[2,-1]}"; do
        values+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    [[ $hints == *nospace* ]] && space=(-S '')
    local known=1
    if (( $#values )); then
        [[ $hints == *(paths|dirs)* ]] && space+=(-f)
        # In the order they come in: versions have the newest first.
        compadd -V nacrefs -l $space -d shown -a values && known=0
    fi
    [[ $PREFIX == --*=* ]] && compset -P '*='
    case $hints in
        *files*) _files && known=0 ;;
        *dirs*) _files -/ && known=0 ;;
    esac
    return known
}

# Loaded by compinit from a directory in fpath, or sourced.
if [[ $funcstack[1] == _nacrefs ]]; then
    _nacrefs "$@"
else
    compdef _nacrefs nacrefs
fi
