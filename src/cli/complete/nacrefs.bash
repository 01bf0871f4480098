# bash completion for nacrefs

_nacrefs() {
    local answer
    # The line up to the cursor, and what readline takes for the word there: it begins a new one after `=` and `:`.
    mapfile -t answer < <(command "${1/#\~\//$HOME/}" complete bash "$2" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    [[ ${#answer[@]} -gt 0 ]] || return 1
    COMPREPLY=("${answer[@]:1}")
    case ${answer[0]} in
        *files*) compopt -o filenames -o default ;;
        *dirs*) compopt -o filenames -o plusdirs ;;
        *paths*) compopt -o filenames ;;
    esac
    case ${answer[0]} in *nospace*) compopt -o nospace ;; esac
}

complete -F _nacrefs nacrefs
