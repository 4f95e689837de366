// All sequence files of a folder on the GPUs of one machine, as one task of Nextflow:
//
//   nextflow run main.nf --reads reads --results results --devices all
//
// The results lie in a folder of their own and not in the work directory of a task, so a task that
// is tried again, or started anew with -resume, goes on where the one before it ended.
// Your configuration says what `process_gpu` needs, such as clusterOptions = '--gres=gpu:4'.

params.reads = 'reads'
params.results = 'results'
params.devices = 'all' // or cpu:8
params.options = '--processor translate'
params.cpus = 8

process VIRNUCPRO {
    label 'process_gpu'
    cpus params.cpus
    errorStrategy 'retry'
    maxRetries 1

    input:
    path reads
    val results

    output:
    path 'run.json'

    script:
    """
    virnucpro-exporter run '${reads}' --output '${results}' --gpus ${params.devices} \\
        --no-web --no-dashboard --linger 0 ${params.options}
    cp '${results}/run.json' run.json
    """
}

workflow {
    reads = Channel.fromPath(params.reads, type: 'dir', checkIfExists: true)
    VIRNUCPRO(reads, file(params.results).toAbsolutePath().toString())
}
