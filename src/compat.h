/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the supported major versions of PostgreSQL, 14-19.
 *
 * Wrappers are named after the newest API, so that the rest of the code has no
 * version conditions. Delete a branch when its release is no longer supported.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_COMPAT_H
#define MC_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 140000
#error "mailchimp_sync needs PostgreSQL 14 or later"
#endif

#include "datatype/timestamp.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/tuplestore.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#endif

/* 15 reserves a prefix; before, one could only warn of what looks misspelt */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* 16 gives settings a memory context of their own; before, it was malloc */
#if PG_VERSION_NUM < 160000
static inline void *
guc_malloc(int elevel, size_t size)
{
	void *result = malloc(size);

	if (result == NULL)
		ereport(elevel, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return result;
}

static inline void
guc_free(void *pointer)
{
	free(pointer);
}
#endif

/* 18 has it, written in front of a declaration; what it replaces is gone there */
#ifndef pg_noreturn
#define pg_noreturn __attribute__((noreturn))
#endif

/* 17 has infinite intervals */
#ifndef INTERVAL_NOT_FINITE
#define INTERVAL_NOT_FINITE(interval) false
#endif

/* 17 may let a resource owner hold the set, and keeps it in TopMemoryContext */
#if PG_VERSION_NUM < 170000
#define CreateWaitEventSet(owner, nevents) CreateWaitEventSet(TopMemoryContext, nevents)
#endif

/* 15 shows a query; before, an expression with a query in it can be shown */
#if PG_VERSION_NUM < 150000
static inline char *
pg_get_querydef(Query *query, bool pretty)
{
	SubLink *link = makeNode(SubLink);
	char *text;

	link->subLinkType = EXPR_SUBLINK;
	link->subselect = (Node *) query;
	link->location = -1;
	text = deparse_expression((Node *) link, NIL, false, false);
	text[strlen(text) - 1] = '\0';
	return text + 1;
}
#endif

/* 15 */
#if PG_VERSION_NUM < 150000
static inline void
InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext context;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("set-valued function called in context that cannot accept a set")));
	context = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &result->setDesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	result->setDesc = CreateTupleDescCopy(result->setDesc);
	result->setResult =
		tuplestore_begin_heap(result->allowedModes & SFRM_Materialize_Random, false, work_mem);
	result->returnMode = SFRM_Materialize;
	MemoryContextSwitchTo(context);
}
#endif

/*
 * 16 forbids to RESET transaction_read_only. Before, that sets the default
 * without a check, so the default must be right. Returns the former one.
 */
static inline bool
mc_set_default_read_only(bool read_only)
{
	bool former = false;
#if PG_VERSION_NUM < 160000
	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		struct config_generic *setting = get_guc_variables()[i];

		if (strcmp(setting->name, "transaction_read_only") == 0)
		{
			former = ((struct config_bool *) setting)->reset_val;
			((struct config_bool *) setting)->reset_val = read_only;
		}
	}
#endif
	return former;
}

/* 16 replaces the queues in shared memory by dlists. The lock of this process after that one, NULL for the first. */
static inline PROCLOCK *
mc_next_own_lock(int partition, PROCLOCK *lock)
{
#if PG_VERSION_NUM < 160000
	SHM_QUEUE *queue = &MyProc->myProcLocks[partition];

	return (PROCLOCK *) SHMQueueNext(queue, lock != NULL ? &lock->procLink : queue,
									 offsetof(PROCLOCK, procLink));
#else
	dlist_head *list = &MyProc->myProcLocks[partition];
	dlist_node *node = NULL;

	if (lock != NULL && dlist_has_next(list, &lock->procLink))
		node = dlist_next_node(list, &lock->procLink);
	else if (lock == NULL && !dlist_is_empty(list))
		node = dlist_head_node(list);
	return node != NULL ? dlist_container(PROCLOCK, procLink, node) : NULL;
#endif
}

/* 18 has generated columns without a stored value */
#if PG_VERSION_NUM < 180000
#define ATTRIBUTE_GENERATED_VIRTUAL 'v'
#endif

/* 17 can ask for this mode or a stronger one */
#if PG_VERSION_NUM < 170000
#define LockHeldByMe(tag, mode, or_stronger) LockHeldByMe(tag, mode)
#endif

/* 19 computes offsets of columns in advance */
#if PG_VERSION_NUM < 190000
#define TupleDescFinalize(desc) ((void) (desc))
#endif

/* 17 has numbers of processes beside PGPROC; before, each PGPROC knows its own */
#if PG_VERSION_NUM < 170000
#define MyProcNumber (MyProc->pgprocno)
#endif

/* 19 names a tranche when it is made; before, each process names it for itself */
#if PG_VERSION_NUM >= 190000
#define LWLockRegisterTranche(tranche, name) ((void) (tranche))
#else
#define LWLockNewTrancheId(name) LWLockNewTrancheId()
#endif

/*
 * 17 has shared memory by name, 19 gives the callback an argument. Before 17, it comes from
 * the slack that the main segment has.
 */
#if PG_VERSION_NUM >= 190000
#define DSM_INIT_CALLBACK(name) name(void *memory, void *arg)
#define INIT_DSM(name, memory) name(memory, NULL)
#else
#define DSM_INIT_CALLBACK(name) name(void *memory)
#define INIT_DSM(name, memory) name(memory)
#endif
#if PG_VERSION_NUM >= 170000 && PG_VERSION_NUM < 190000
#define GetNamedDSMSegment(name, size, init, found, arg) GetNamedDSMSegment(name, size, init, found)
#elif PG_VERSION_NUM < 170000
static inline void *
GetNamedDSMSegment(const char *name, size_t size, void (*init)(void *), bool *found, void *arg)
{
	void *memory;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	memory = ShmemInitStruct(name, size, found);
	if (!*found)
		init(memory);
	LWLockRelease(AddinShmemInitLock);
	return memory;
}
#endif

#endif /* MC_COMPAT_H */
