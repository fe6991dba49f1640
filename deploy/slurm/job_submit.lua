-- Jobs on the portal's accounts need a one-time ticket that the signer wrote (spawners/signer/tickets.py); all other accounts are left alone.
--
-- Lua as slurmctld reads it from the folder of slurm.conf (JobSubmitPlugins=lua); tried on 22.05.8. Invariants: one job a hold for ever;
-- nothing is accepted because something here failed (22.05 accepts a job whose script raises: every path goes through pcall and ends
-- in a number); owners change nothing about their portal jobs. slurmctld runs one call at a time.

local TICKETS = "/var/lib/commons-signer/tickets/"
local PREFIX = "cc-"                                -- what the portal's accounts begin with
local ADMINS = { [0] = true, [64030] = true }       -- uids of root, SlurmUser and the portal's operator: they may change portal jobs

local DENIED = 2002 -- ESLURM_ACCESS_DENIED; slurm.ERROR would read "Unspecified error"

local function refuse(why)
  slurm.log_user("portal: " .. why) -- sbatch prints it; slurmrestd does not show it
  slurm.log_info("portal: refused: %s", why)
  return DENIED
end

-- Slurm finds accounts whatever their case; a job that names none, by itself or by default, is treated as the portal's.
local function portals(account, default)
  local name = account or default
  return name == nil or name == "" or string.sub(string.lower(name), 1, #PREFIX) == PREFIX
end

local function read_ticket(id)
  local file = io.open(TICKETS .. "new/" .. id, "r")
  if not file then return nil end
  local terms = {}
  for line in file:lines() do
    local key, value = string.match(line, "^(%w+)=(.*)$")
    if key then terms[key] = value end
  end
  file:close()
  return terms
end

-- 22.05 says gres:gpu:h100:1 where 24.11 says gres/gpu:h100:1
local function gres_of(text)
  return (string.gsub(text or "", "^gres[:/]", ""))
end

local function mismatch(job, uid, terms)
  local got = {
    uid = uid, account = job.account, minutes = job.time_limit, gres = gres_of(job.tres_per_node), name = job.name,
    partition = job.partition, qos = job.qos or "",
  }
  for _, key in ipairs({ "uid", "account", "minutes", "gres", "name", "partition", "qos" }) do
    if tostring(got[key]) ~= terms[key] then return key end
  end
  for _, key in ipairs({ "tres_per_job", "tres_per_socket", "tres_per_task" }) do -- other ways to ask for GPUs
    -- sbatch of 24.11 says --cpus-per-task there, too
    if job[key] and job[key] ~= "" and not string.match(job[key], "^cpu[:=]%d+$") then return key end
  end
  return nil
end

local function submit(job, uid)
  if not portals(job.account, job.default_account) then return slurm.SUCCESS end
  local comment = job.comment or ""
  local id = string.match(comment, "^cct:(%x+)$") or string.match(comment, "^cct:(%x+) ")
  if not id or #id ~= 32 then
    return refuse("this account takes jobs from the portal only: start your session in the browser")
  end
  local terms = read_ticket(id)
  if not terms then return refuse("the ticket is unknown or was used") end
  if not string.match(terms.hold or "", "^[%w_-]+$") then return refuse("the ticket names no hold") end
  local used = io.open(TICKETS .. "used/" .. terms.hold, "r")
  if used then
    used:close()
    os.remove(TICKETS .. "new/" .. id)
    return refuse("hold " .. terms.hold .. " had its job")
  end
  -- consumed before it is compared: a ticket serves one submit, whatever comes of it
  if not os.rename(TICKETS .. "new/" .. id, TICKETS .. "used/" .. terms.hold) then return refuse("the ticket cannot be consumed") end
  local wrong = mismatch(job, uid, terms)
  if wrong then return refuse("the job is not the ticket's: " .. wrong .. " differs") end
  if os.time() > (tonumber(terms.expires) or 0) then return refuse("the ticket has expired") end
  if job.array_inx or not job.script then return refuse("one batch job only") end
  if job.max_nodes ~= 1 then return refuse("one node only") end
  job.requeue = 0 -- a requeue would not come by here again
  job.comment = string.sub(comment, 5 + #id + 1) -- what the ticket leaves: the label ("" and never nil, which raises)
  job.admin_comment = "hold=" .. terms.hold -- users cannot change it; it reaches slurmdbd
  return slurm.SUCCESS
end

local function modify(new, job, uid)
  if ADMINS[uid] then return slurm.SUCCESS end
  if not portals(job.account, nil) and not (new.account and portals(new.account, nil)) then return slurm.SUCCESS end
  return refuse("jobs of the portal are changed in the portal only")
end

local function closed(step, ...)
  local ok, code = pcall(step, ...)
  if ok and type(code) == "number" then return code end
  slurm.log_error("portal: job_submit.lua: %s", tostring(code))
  pcall(slurm.log_user, "portal: internal error, nothing was started")
  return DENIED
end

function slurm_job_submit(job, partitions, uid) return closed(submit, job, uid) end
function slurm_job_modify(new, job, partitions, uid) return closed(modify, new, job, uid) end

return slurm.SUCCESS
