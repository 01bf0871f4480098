# fish completion for nacrefs

function __nacrefs_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l answer (command $words[1] complete fish $words[2..-1] $word 2>/dev/null)
    or return
    printf '%s\n' $answer[2..-1]
    switch $answer[1]
        case '*files*'
            __fish_complete_path $word
        case '*dirs*'
            __fish_complete_directories $word ''
    end
end

complete -c nacrefs -f -k -a '(__nacrefs_complete)'
