# fish completion for nacrefs

function __nacrefs_complete
    set -l words (commandline -opc)
    # As it is typed, with its quotes, and without.
    set -l typed (commandline -ct)
    set -l word (string unescape -- $typed)
    or set word $typed
    set -l answer (command $words[1] complete fish $words[2..-1] "$word" 2>/dev/null)
    or return
    printf '%s\n' $answer[2..-1]
    switch $answer[1]
        case '*files*'
            # What fish offers for a command that it knows nothing of.
            complete -C "nacrefs-any-file $typed"
        case '*dirs*'
            __fish_complete_directories "$typed" ''
    end
end

complete -c nacrefs -f -k -a '(__nacrefs_complete)'
