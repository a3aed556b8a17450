/*-------------------------------------------------------------------------
 *
 * event.c
 *	  Rows of mailchimp_sync.event, from inside of other people's transactions;
 *	  and waking the engine when these commit.
 *
 * Who writes to a table of the CRM has no rights on ours, and each of their rows
 * waits for this one. So it is put there as the worker of a subscription puts
 * rows: without a query, whose start and end cost several times what the
 * row costs, and without taking on another role. There is no unique key besides
 * a sequence's number, so two writers never meet here, whatever their
 * isolation level (N17).
 *
 * Columns are found by name: between the installation of a new library and
 * ALTER EXTENSION UPDATE the table is that of the former version.
 *
 * The engine is woken when the transaction has committed, by one callback per
 * process. A prepared transaction commits in a process that knows nothing of
 * it; there the engine's own look every minute has to do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "event.h"
#include "mailchimp_sync.h"
#include "slot.h"

#define EVENT_TABLE "event"
#define EVENT_SEQUENCE "event_event_id_seq"

static bool wake_pending = false;

PG_FUNCTION_INFO_V1(mc_wake);

/* ---- waking the engine ---- */

static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_pending)
				mc_engine_wake(MyDatabaseId);
			wake_pending = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_pending = false;
			break;
		default:
			break;
	}
}

void
mc_wake_at_commit(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		registered = true;
	}
	wake_pending = true;
}

Datum
mc_wake(PG_FUNCTION_ARGS)
{
	mc_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- storing ---- */

static void
set_row(const char *json, Datum *value, bool *isnull)
{
	*isnull = json == NULL;
	if (json != NULL)
		*value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static void
fill_slot(TupleTableSlot *slot, Oid sequence, int32 source_id, int32 relation_id,
		  const McEventRow *row)
{
	TupleDesc desc = slot->tts_tupleDescriptor;

	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);
		Datum *value = &slot->tts_values[i];
		bool *isnull = &slot->tts_isnull[i];

		if (strcmp(name, "event_id") == 0)
		{
			*value = Int64GetDatum(nextval_internal(sequence, false));
			*isnull = false;
		}
		else if (strcmp(name, "source_id") == 0)
		{
			*value = Int32GetDatum(source_id);
			*isnull = false;
		}
		else if (strcmp(name, "relation_id") == 0)
		{
			*value = Int32GetDatum(relation_id);
			*isnull = false;
		}
		else if (strcmp(name, "now") == 0)
		{
			*value = BoolGetDatum(false);
			*isnull = false;
		}
		else if (strcmp(name, "old_row") == 0)
			set_row(row->old_row, value, isnull);
		else if (strcmp(name, "new_row") == 0)
			set_row(row->new_row, value, isnull);
	}
}

static void
insert_rows(Relation relation, Oid sequence, int32 source_id, int32 relation_id,
			const McEventRow *rows, int nrows)
{
	EState *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsVirtual);
	MemoryContext context;

	InitResultRelInfo(target, relation, 0, NULL, 0);
	target->ri_TrigDesc = NULL;
	ExecOpenIndices(target, false);
	for (int i = 0; i < nrows; i++)
	{
		context = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		fill_slot(slot, sequence, source_id, relation_id, &rows[i]);
		ExecSimpleRelationInsert(target, estate, slot);
		MemoryContextSwitchTo(context);
		ResetPerTupleExprContext(estate);
	}
	ExecCloseIndices(target);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/*
 * The schema is that of the trigger's function and not one that has its name: where ours was
 * renamed, that one is somebody else's, and so is what it calls a table of events.
 * A table that is missing must not make the write fail that we note.
 */
void
mc_store_events(Oid schema, int32 source_id, int32 relation_id, const McEventRow *rows, int nrows)
{
	Oid table = get_relname_relid(EVENT_TABLE, schema);
	Oid sequence = get_relname_relid(EVENT_SEQUENCE, schema);
	Relation relation;

	if (!OidIsValid(table) || !OidIsValid(sequence))
		return;
	relation = table_open(table, RowExclusiveLock);
	insert_rows(relation, sequence, source_id, relation_id, rows, nrows);
	table_close(relation, NoLock);
	mc_wake_at_commit();
}
