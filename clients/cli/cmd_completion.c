/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_completion.c -- `ablate completion SHELL`: the shell's half of completion; complete.h has the
 * other. */
#include "clients/cli/cli.h"

#include <string.h>

static const char bash[] =
    "# bash completion for ablate. In ~/.bashrc: source <(ablate completion bash)\n"
    "_ablate() {\n"
    "    local line\n"
    "    COMPREPLY=()\n"
    "    while IFS= read -r line; do\n"
    "        if [ \"$line\" = :files ]; then\n"
    "            compopt -o default 2>/dev/null\n"
    "            local name=${COMP_WORDS[COMP_CWORD]}\n"
    "            [ \"$name\" = = ] && name=\n"
    "            while IFS= read -r line; do\n"
    "                COMPREPLY+=(\"$line\")\n"
    "            done < <(compgen -f -- \"$name\")\n"
    "        else\n"
    "            COMPREPLY+=(\"${line%%$'\\t'*}\")\n"
    "        fi\n"
    "    done < <(\"${COMP_WORDS[0]}\" __complete \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\n"
    "}\n"
    "complete -F _ablate ablate\n";

static const char zsh[] =
    "#compdef ablate\n"
    "# zsh completion for ablate. In ~/.zshrc, behind compinit: source <(ablate completion zsh)\n"
    "_ablate() {\n"
    "    local line what files=0\n"
    "    local -a found\n"
    "    for line in \"${(@f)$(\"${words[1]}\" __complete \"${(@)words[2,CURRENT]}\" "
    "2>/dev/null)}\"; do\n"
    "        if [[ $line == :files ]]; then\n"
    "            files=1\n"
    "        elif [[ -n $line ]]; then\n"
    "            what=${line#*$'\\t'}\n"
    "            found+=(\"${${line%%$'\\t'*}//:/\\\\:}${what:+:$what}\")\n"
    "        fi\n"
    "    done\n"
    "    (( ${#found} )) && _describe ablate found\n"
    "    (( files )) && _files\n"
    "}\n"
    "if [ \"$funcstack[1]\" = _ablate ]; then\n"
    "    _ablate \"$@\"\n"
    "else\n"
    "    compdef _ablate ablate\n"
    "fi\n";

static const char fish[] =
    "# fish completion for ablate: ablate completion fish > "
    "~/.config/fish/completions/ablate.fish\n"
    "function __ablate_complete\n"
    "    set -l before (commandline -opc)\n"
    "    set -l current (commandline -ct)\n"
    "    for line in ($before[1] __complete $before[2..-1] \"$current\" 2>/dev/null)\n"
    "        if test \"$line\" = :files\n"
    "            __fish_complete_path \"$current\"\n"
    "        else\n"
    "            echo $line\n"
    "        end\n"
    "    end\n"
    "end\n"
    "complete -c ablate -f -a '(__ablate_complete)'\n";

int abl_cmd_completion(abl_cli *cli) {
    static const struct {
        const char *shell;
        const char *script;
    } scripts[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < ABL_COUNT_OF(scripts); i++) {
        if (strcmp(cli->args->operands[0], scripts[i].shell) == 0) {
            return fputs(scripts[i].script, stdout) >= 0 && fflush(stdout) == 0
                       ? ABL_EXIT_OK
                       : abl_cli_error(cli, "cannot write the output");
        }
    }
    return abl_cli_usage(cli, "there is completion for bash, zsh and fish, not for '%s'",
                         cli->args->operands[0]);
}
