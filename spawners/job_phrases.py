"""What Slurm sessions tell people, in both languages: why a job waits, how it ended, why a start is refused. Part of `spawners.phrases`."""

from typing import Final

JOB_PHRASES: Final[dict[str, dict[str, str]]] = {
    "job.asked": {"en": "Asking the cluster for the job", "zh": "正在向集群提交作业"},
    "job.begins": {
        "en": "The job has started; its notebook server is coming up",
        "zh": "作业已开始；笔记本服务器正在启动",
    },
    "job.place": {"en": " Place in the queue: {place}.", "zh": "排队位置：{place}。"},
    "job.starts_at": {"en": " Expected start: {at} UTC.", "zh": "预计开始时间：UTC {at}。"},
    "job.waiting.resources": {
        "en": "All suitable GPUs are in use; the job starts as soon as enough are free.",
        "zh": "合适的 GPU 都在使用中；有足够空闲时作业即会开始。",
    },
    "job.waiting.priority": {
        "en": "Other jobs are before this one in the queue.",
        "zh": "队列中还有其他作业排在前面。",
    },
    "job.waiting.starting": {"en": "The cluster is making the node ready.", "zh": "集群正在准备节点。"},
    "job.waiting.project_limit": {
        "en": "The project runs as much as the cluster allows it at a time.",
        "zh": "该项目同时运行的作业已达到集群允许的上限。",
    },
    "job.waiting.person_limit": {
        "en": "You run as much as the cluster allows one person at a time.",
        "zh": "您同时运行的作业已达到集群允许的上限。",
    },
    "job.waiting.nodes_down": {
        "en": "The nodes that would fit are down or being repaired.",
        "zh": "合适的节点已停机或正在维修。",
    },
    "job.waiting.partition_down": {
        "en": "The cluster starts no jobs of this kind at the moment.",
        "zh": "集群目前不启动此类作业。",
    },
    "job.waiting.reserved": {"en": "The nodes that would fit are reserved.", "zh": "合适的节点已被预约。"},
    "job.waiting.held": {"en": "The cluster's operators hold this job back.", "zh": "集群运维人员暂时搁置了此作业。"},
    "job.waiting.later": {"en": "The cluster starts this job at a later time.", "zh": "集群将稍后启动此作业。"},
    "job.waiting.licences": {"en": "All licences are in use.", "zh": "所有许可证都在使用中。"},
    "job.waiting.never_fits": {
        "en": "The cluster says that this job can never start there. If it keeps saying so, the job is given up; nothing is charged.",
        "zh": "集群称此作业在其上永远无法开始。如果一直如此，此作业将被放弃；不会计费。",
    },
    "job.waiting.unknown": {"en": "The job waits in the cluster's queue.", "zh": "作业正在集群队列中等待。"},
    "job.waiting.unreachable": {
        "en": "The cluster does not answer at the moment; the job keeps its place in the queue.",
        "zh": "集群目前没有响应；作业保留其排队位置。",
    },
    "job.end.completed": {"en": "The session's program ended.", "zh": "会话的程序已结束。"},
    "job.end.failed": {"en": "The session's program ended with an error.", "zh": "会话的程序因错误而结束。"},
    "job.end.cancelled": {"en": "The job was cancelled.", "zh": "作业已被取消。"},
    "job.end.timeout": {"en": "The job reached its time limit.", "zh": "作业已达到时间上限。"},
    "job.end.node_fail": {
        "en": "The node failed; what ran on it does not go on.",
        "zh": "节点发生故障；其上运行的内容不会继续。",
    },
    "job.end.preempted": {
        "en": "The cluster gave the job's place to one of higher priority.",
        "zh": "集群把该作业的位置让给了更高优先级的作业。",
    },
    "job.end.boot_fail": {"en": "The node could not be started.", "zh": "节点无法启动。"},
    "job.end.deadline": {"en": "The job could not have finished in time.", "zh": "作业无法按时完成。"},
    "job.end.out_of_memory": {
        "en": "The session used more memory than its profile has.",
        "zh": "会话使用的内存超过了其规格。",
    },
    "job.end.no_gpus": {
        "en": "The GPUs were not there when the job started, so the session was not started.",
        "zh": "作业开始时没有可用的 GPU，因此会话没有启动。",
    },
    "job.end.unknown": {"en": "The job has ended.", "zh": "作业已结束。"},
    "job.nothing_runs": {"en": "{why} Nothing runs any more.", "zh": "{why}现在没有任何内容在运行。"},
    "job.given_up": {"en": "{why} Unused time is not charged.", "zh": "{why}未使用的时间不计费。"},
    "job.no_answer": {
        "en": "The job ran and its notebook server did not answer, so it was ended.",
        "zh": "作业已运行，但笔记本服务器没有响应，因此已被结束。",
    },
    "job.without_gpus": {
        "en": "The cluster started the job without its GPUs, so it was ended.",
        "zh": "集群启动了作业，但没有分配 GPU，因此已被结束。",
    },
    "job.never_fits": {
        "en": "The cluster kept saying that this job can never start there: it is larger or longer than it allows, or its account is "
        "not known there.",
        "zh": "集群一直称此作业在其上永远无法开始：其规模或时长超过集群允许的范围，或集群不认识其账户。",
    },
    "job.waited_too_long": {
        "en": "The job waited too long in the cluster's queue, so it was cancelled.",
        "zh": "作业在集群队列中等待过久，因此已被取消。",
    },
    "job.unreachable": {
        "en": "The cluster cannot be reached, so nothing was started and nothing is charged. Sessions that run go on. "
        "Try again in a minute.",
        "zh": "无法连接集群，因此没有启动任何内容，也不会计费。正在运行的会话会继续。请一分钟后再试。",
    },
    "job.not_taken": {
        "en": "The cluster does not take this session, so nothing was started and nothing is charged. It says: {why}",
        "zh": "集群不接受此会话，因此没有启动任何内容，也不会计费。集群的说明：{why}",
    },
    "job.lost": {"en": "it made no job", "zh": "没有生成作业"},
    "job.misconfigured": {
        "en": "The cluster cannot take this session as this portal is set up; nothing was started. Tell the portal's operators.",
        "zh": "按照本门户目前的设置，集群无法接受此会话；没有启动任何内容。请告知门户运维人员。",
    },
    "job.over": {"en": "The session is over.", "zh": "会话已结束。"},
    "job.not_begun": {
        "en": "The session waits in the queue; its time has not begun.",
        "zh": "会话正在排队；其时间尚未开始。",
    },
    "job.limit_refused": {
        "en": "The cluster does not move this session's end: {why}",
        "zh": "集群不调整此会话的结束时间：{why}",
    },
}
