# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_snapkeep_global_optspecs
    string join \n config= json h/help V/version
end

function __fish_snapkeep_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_snapkeep_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_snapkeep_using_subcommand
    set -l cmd (__fish_snapkeep_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c snapkeep -n "__fish_snapkeep_needs_command" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_needs_command" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -s V -l version -d 'Print version'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "init" -d 'Make or check a store and its instances root, and say what will be fast, slow or impossible'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "run" -d 'The worker, until SIGTERM: schedules, fork queue, pruning, API'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "once" -d 'Everything that is due now: snapshots, the queue, pruning; then exit (for a systemd timer)'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "check" -d 'Validate the configuration; every problem is reported at once'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "demo" -d 'The whole life on a made-up instance in a temporary directory, in half a minute'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "snapshot" -d 'Take a snapshot now'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "fork" -d 'Make forks of a snapshot: queued durably, then made'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "unfork" -d 'Remove a fork that does not run'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "restore" -d 'Put an instance back to a snapshot; what is there goes into the trash'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "import" -d 'Take directories that a script made of an instance into the store, as snapshots of the time in their names'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "ls" -d 'List snapshots'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "show" -d 'Show one snapshot'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "forks" -d 'List forks that live'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "queue" -d 'Show the fork queue, or cancel a request that waits'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "status" -d 'The worker, and how each policy does with each instance'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "rm" -d 'Remove a snapshot; refused while forks live'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "undelete" -d 'Bring a snapshot or an instance back from the trash; or keep a snapshot after all that is marked to go'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "hold" -d 'Pin a snapshot: it stays until the hold is released'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "release" -d 'Release a hold'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "plan" -d 'What retention would do, and why'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "prune" -d 'Do what retention says, within the caps of [prune]'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "simulate" -d 'How a policy behaves over years of made-up time: how many snapshots it holds, how old, how many bytes'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "verify" -d 'Check digests, refs and strays on the disk; changes nothing without --repair'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "clock" -d 'Whether the wall clock is believed; while it is not, nothing is removed by age'
complete -c snapkeep -n "__fish_snapkeep_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand init" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand init" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand init" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand run" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand run" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand run" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand once" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand once" -l leave-digests -d 'Leave digests that are pending to the next run or a worker'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand once" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand once" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand check" -l next -d 'Print the next so many slots of each policy, in its zone' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand check" -l from -d 'Those after this time (RFC 3339) instead of now' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand check" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand check" -l schema -d 'Print the configuration\'s JSON Schema instead'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand check" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand check" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand demo" -l seconds -d 'How long, seconds' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand demo" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand demo" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand demo" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand snapshot" -l name -d 'Its name; made from the time if not given' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand snapshot" -l tag -d 'A tag; may be repeated' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand snapshot" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand snapshot" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand snapshot" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l count -d 'So many forks, named by the prefix' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l prefix -d 'PREFIX-1, PREFIX-2, … going on after the highest there is' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l key -d 'Idempotency key: asked again with the same key, the same forks are meant' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l timeout -d 'How long to wait for the forks at most' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l no-wait -d 'Return once the requests are durable'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand fork" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand unfork" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand unfork" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand unfork" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand restore" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand restore" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand restore" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l instance -d 'What they are snapshots of; it need not be there' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l policy -d 'The policy whose they become, to remove by its rules; if not given they are nobody\'s' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l pattern -d 'The time in their names as strftime writes it, such as %Y-%m-%dT%H-%M-%S; names that do not fit are left' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l timezone -d 'The zone of times without an offset. Default: UTC' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l tag -d 'A tag for all of them; may be repeated' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l move -d 'The directories go: by a rename into the store where that can be, else once they are copied'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l dry-run -d 'Only say what would be taken, of what time, and what is left and why'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand import" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -l instance -d 'Of this instance only' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -l policy -d 'Of this policy only' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -l tag -d 'With this tag only; may be repeated' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -l trash -d 'What lies in the trash instead: snapshots and instances that can be brought back'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand ls" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand show" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand show" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand show" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand forks" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand forks" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand forks" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and not __fish_seen_subcommand_from cancel help" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and not __fish_seen_subcommand_from cancel help" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and not __fish_seen_subcommand_from cancel help" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and not __fish_seen_subcommand_from cancel help" -f -a "cancel" -d 'Cancel a request that still waits'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and not __fish_seen_subcommand_from cancel help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and __fish_seen_subcommand_from cancel" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and __fish_seen_subcommand_from cancel" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and __fish_seen_subcommand_from cancel" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "cancel" -d 'Cancel a request that still waits'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand queue; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand status" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand status" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand status" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand rm" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand rm" -l defer -d 'If something needs it: mark it to go with its last fork'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand rm" -l unreadable -d 'Also if its manifest cannot be read; never while a fork, a hold or another link needs it'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand rm" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand rm" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand undelete" -l as -d 'Another name for an instance whose name is taken' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand undelete" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand undelete" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand undelete" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand hold" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand hold" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand hold" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand release" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand release" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand release" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand plan" -l policy -d 'For this policy only; may be repeated' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand plan" -l at -d 'As of this time (RFC 3339)' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand plan" -l diff -d 'Only what would be otherwise than by the configuration in force (of the worker, or of the usual file), or by FILE' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand plan" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand plan" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand plan" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand prune" -l policy -d 'For this policy only; may be repeated' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand prune" -l plan -d 'Exactly this plan, whatever the caps, or nothing if it is no longer that (exit 4)' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand prune" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand prune" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand prune" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l policy -d 'This policy only; may be repeated. All that have a schedule if not given' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l years -d 'How many years' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l span -d 'How long instead, such as 400d' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l from -d 'Where it begins, with an empty store: a date, or a time (RFC 3339). Today if not given' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l every -d 'A snapshot every so often, instead of by the policy\'s schedule' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l size -d 'What one snapshot takes by itself, such as 10GiB; then bytes are told' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l exclusive -d 'What each snapshot has alone, where the file system shares the rest. As much as --size if not given' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l forks-per-day -d 'Forks made in a day, of snapshots that are kept, the newest most often' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l fork-life -d 'How long a fork lives: from half of it to one and a half' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l missing -d 'The chance that a slot is missed, such as 5%' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l seed -d 'Another course of chance' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l instance -d 'The instance; jitter depends on its name' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l svg -d 'Draw it: a chart over time, and a calendar of what is kept at the end' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l every-slot -d 'Apply retention after every slot, however many there are'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand simulate" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l rate -d 'Bytes read per second at most, such as 100MiB' -r
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l repair -d 'Mend what can be mended without losing anything: quarantine, refs, strays moved aside'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l resume -d 'Go on where a run was cut short: leave out what it has compared'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l quick -d 'Compare no digests: names, sizes, modes, refs and links only'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l strict -d 'Take warnings for errors'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand verify" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and not __fish_seen_subcommand_from accept help" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and not __fish_seen_subcommand_from accept help" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and not __fish_seen_subcommand_from accept help" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and not __fish_seen_subcommand_from accept help" -f -a "accept" -d 'Believe it as it is'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and not __fish_seen_subcommand_from accept help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and __fish_seen_subcommand_from accept" -l config -d 'The configuration' -r -F
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and __fish_seen_subcommand_from accept" -l json -d 'Print JSON: one document on stdout, or one a line; errors as problem documents on stderr'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and __fish_seen_subcommand_from accept" -s h -l help -d 'Print help'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and __fish_seen_subcommand_from help" -f -a "accept" -d 'Believe it as it is'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand clock; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "init" -d 'Make or check a store and its instances root, and say what will be fast, slow or impossible'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "run" -d 'The worker, until SIGTERM: schedules, fork queue, pruning, API'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "once" -d 'Everything that is due now: snapshots, the queue, pruning; then exit (for a systemd timer)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "check" -d 'Validate the configuration; every problem is reported at once'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "demo" -d 'The whole life on a made-up instance in a temporary directory, in half a minute'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "snapshot" -d 'Take a snapshot now'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "fork" -d 'Make forks of a snapshot: queued durably, then made'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "unfork" -d 'Remove a fork that does not run'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "restore" -d 'Put an instance back to a snapshot; what is there goes into the trash'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "import" -d 'Take directories that a script made of an instance into the store, as snapshots of the time in their names'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "ls" -d 'List snapshots'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "show" -d 'Show one snapshot'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "forks" -d 'List forks that live'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "queue" -d 'Show the fork queue, or cancel a request that waits'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "status" -d 'The worker, and how each policy does with each instance'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "rm" -d 'Remove a snapshot; refused while forks live'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "undelete" -d 'Bring a snapshot or an instance back from the trash; or keep a snapshot after all that is marked to go'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "hold" -d 'Pin a snapshot: it stays until the hold is released'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "release" -d 'Release a hold'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "plan" -d 'What retention would do, and why'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "prune" -d 'Do what retention says, within the caps of [prune]'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "simulate" -d 'How a policy behaves over years of made-up time: how many snapshots it holds, how old, how many bytes'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "verify" -d 'Check digests, refs and strays on the disk; changes nothing without --repair'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "clock" -d 'Whether the wall clock is believed; while it is not, nothing is removed by age'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and not __fish_seen_subcommand_from init run once check demo snapshot fork unfork restore import ls show forks queue status rm undelete hold release plan prune simulate verify clock help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and __fish_seen_subcommand_from queue" -f -a "cancel" -d 'Cancel a request that still waits'
complete -c snapkeep -n "__fish_snapkeep_using_subcommand help; and __fish_seen_subcommand_from clock" -f -a "accept" -d 'Believe it as it is'
