/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  Triggers on the tables of the CRM: they note that rows changed, no more.
 *
 * The tables are other people's, so a trigger never makes a statement fail or
 * wait for our reasons (N17). It evaluates nothing that somebody registered; it
 * finds columns by their names at run time, so that a renamed or dropped column
 * costs us a comparison and the writer nothing; it only stores events
 * (event.c).
 *
 * A trigger for statements has their transition tables. The rows before and
 * after an UPDATE come in the same order and are compared in pairs; where
 * their numbers differ nobody knows the pairs, and every row counts as changed.
 * A trigger for rows is called for each, with the pair; what it has found out
 * about the columns is kept until the end of the statement. TRUNCATE is a
 * statement's in either case.
 *
 * Only the columns that lead to the contact are stored, as text made by
 * their output functions under settings that do not depend on the session.
 * The engine reads them back as the source's owner. What cannot be stored (a
 * column that is gone, a value of a megabyte, JSON nested deeper than jsonb_in
 * may have stack for) becomes one event that says "anything of this
 * relation".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/dependency.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "event.h"
#include "mailchimp_sync.h"

/* So many events are stored at a time at most, and so many bytes of rows (plus one row) */
#define CHUNK_ROWS 1000
#define CHUNK_BYTES (4 * 1024 * 1024)

/* No key is that long or nested that deep; a row with such a value is not stored */
#define MAX_VALUE_BYTES (1024 * 1024)
#define MAX_ROW_BYTES (8 * 1024 * 1024)
#define MAX_DEPTH 100

/* The trigger's arguments: these, the stored columns, the other columns that matter */
#define ARG_SOURCE_ID 0
#define ARG_RELATION_ID 1
#define ARG_STORED 2 /* how many names */
#define ARG_MAPPED 3 /* how many names; -1: every column matters */
#define ARG_NAMES 4

typedef struct StoredColumn
{
	AttrNumber attnum;
	bool is_varlena;
	bool is_jsonb; /* stored as it is: only jsonb_in() would read a string as one */
	FmgrInfo output;
	const char *name;
} StoredColumn;

/* The trigger's arguments against the table as it is now */
typedef struct Mapping
{
	Oid schema; /* where this function is, and the events */
	int32 source_id;
	int32 relation_id;
	TupleDesc desc;
	int nstored;
	StoredColumn *stored;
	bool unstorable; /* one of these is gone: no row can be stored */
	int ncompared;
	AttrNumber *compared; /* a change of these counts */
	bool all;			  /* one of these is gone: every row counts as changed */
	bool told;			  /* a trigger for rows has said "anything" already */
} Mapping;

/* What a trigger for statements has gathered */
typedef struct Note
{
	Mapping *mapping;
	bool unnamed; /* some row cannot be stored */
	MemoryContext chunk;
	int nrows;
	Size nbytes;
	McEventRow *rows;
} Note;

PG_FUNCTION_INFO_V1(mc_note_change);
PG_FUNCTION_INFO_V1(mc_depend_on_extension);

/* ---- rows as they are stored ---- */

static bool
is_deep(const char *json)
{
	int depth = 0;
	bool in_string = false;

	for (; *json != '\0'; json++)
	{
		if (in_string)
		{
			if (*json == '\\')
				json++;
			else
				in_string = *json != '"';
		}
		else if (*json == '"')
			in_string = true;
		else if (*json == '{' || *json == '[')
		{
			if (++depth > MAX_DEPTH)
				return true;
		}
		else if (*json == '}' || *json == ']')
			depth--;
	}
	return false;
}

/* False where the value cannot be stored */
static bool
append_value(StringInfo json, StoredColumn *column, Datum value)
{
	char *text;

	/* making the text of a value of half a gigabyte would fail */
	if (column->is_varlena && toast_raw_datum_size(value) > MAX_VALUE_BYTES)
		return false;
	text = OutputFunctionCall(&column->output, value);
	if (strlen(text) > MAX_VALUE_BYTES || (column->is_jsonb && is_deep(text)))
		return false;
	if (column->is_jsonb)
		appendStringInfoString(json, text);
	else
		escape_json(json, text);
	return json->len <= MAX_ROW_BYTES;
}

/* The stored columns of a row as JSON; NULL where they cannot be stored */
static char *
stored_row(const Mapping *mapping, TupleTableSlot *slot)
{
	StringInfoData json;

	if (mapping->unstorable)
		return NULL;
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < mapping->nstored; i++)
	{
		StoredColumn *column = &mapping->stored[i];
		bool is_null;
		Datum value = slot_getattr(slot, column->attnum, &is_null);

		if (i > 0)
			appendStringInfoChar(&json, ',');
		escape_json(&json, column->name);
		appendStringInfoChar(&json, ':');
		if (is_null)
			appendStringInfoString(&json, "null");
		else if (!append_value(&json, column, value))
			return NULL;
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* A row before and a row after, one of which may be missing; false where one cannot be stored */
static bool
make_event(const Mapping *mapping, TupleTableSlot *old_slot, TupleTableSlot *new_slot,
		   McEventRow *row)
{
	row->old_row = old_slot != NULL ? stored_row(mapping, old_slot) : NULL;
	row->new_row = new_slot != NULL ? stored_row(mapping, new_slot) : NULL;
	return (old_slot == NULL || row->old_row != NULL) && (new_slot == NULL || row->new_row != NULL);
}

/* An event without rows: anything of this relation may differ */
static void
store_unnamed(const Mapping *mapping)
{
	McEventRow nothing = {0};

	mc_store_events(mapping->schema, mapping->source_id, mapping->relation_id, &nothing, 1);
}

/*
 * Values need the same text in every session; most sessions have the settings
 * for that anyway. Undone by AtEOXact_GUC() with the result.
 */
static int
pin_output(void)
{
	int nest_level = NewGUCNestLevel();

#define PIN(name, value)                                                                        \
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, \
							 false)

	if (DateStyle != USE_ISO_DATES)
		PIN("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		PIN("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		PIN("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		PIN("bytea_output", "hex");
#undef PIN
	return nest_level;
}

/* ---- the arguments, against the table as it is now ---- */

pg_noreturn static void raise_protocol(void);

static void
raise_protocol(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("note_change() is for the triggers that mc_add_source and mc_watch make")));
}

/* A virtual column has no value in a row; it counts as one that is gone */
static AttrNumber
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		const FormData_pg_attribute *attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped && attribute->attgenerated != ATTRIBUTE_GENERATED_VIRTUAL &&
			strcmp(NameStr(attribute->attname), name) == 0)
			return attribute->attnum;
	}
	return InvalidAttrNumber;
}

static void
find_stored(Mapping *mapping, char **names)
{
	mapping->stored = palloc0(sizeof(StoredColumn) * (mapping->nstored + 1));
	for (int i = 0; i < mapping->nstored; i++)
	{
		StoredColumn *column = &mapping->stored[i];
		Oid type;
		Oid output;

		column->name = names[i];
		column->attnum = find_column(mapping->desc, names[i]);
		if (column->attnum == InvalidAttrNumber)
		{
			mapping->unstorable = true;
			return;
		}
		type = TupleDescAttr(mapping->desc, column->attnum - 1)->atttypid;
		column->is_jsonb = getBaseType(type) == JSONBOID;
		getTypeOutputInfo(type, &output, &column->is_varlena);
		fmgr_info(output, &column->output);
	}
}

static void
find_compared(Mapping *mapping, int n, char **names)
{
	bool every = n < 0;

	n = every ? mapping->desc->natts : n + mapping->nstored;
	mapping->compared = palloc(sizeof(AttrNumber) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		AttrNumber attnum = every ? i + 1 : find_column(mapping->desc, names[i]);

		if (attnum == InvalidAttrNumber)
			mapping->all = true;
		else if (!TupleDescAttr(mapping->desc, attnum - 1)->attisdropped)
			mapping->compared[mapping->ncompared++] = attnum;
	}
}

/* All that it has is in the current memory context, but for the table's and trigger's own */
static Mapping *
find_mapping(FunctionCallInfo fcinfo)
{
	const TriggerData *trigger = (TriggerData *) fcinfo->context;
	char **arguments = trigger->tg_trigger->tgargs;
	Mapping *mapping = palloc0(sizeof(Mapping));
	int nmapped = pg_strtoint32(arguments[ARG_MAPPED]);

	mapping->schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	mapping->source_id = pg_strtoint32(arguments[ARG_SOURCE_ID]);
	mapping->relation_id = pg_strtoint32(arguments[ARG_RELATION_ID]);
	mapping->desc = RelationGetDescr(trigger->tg_relation);
	mapping->nstored = pg_strtoint32(arguments[ARG_STORED]);
	if (mapping->nstored < 0 ||
		trigger->tg_trigger->tgnargs != (int64) ARG_NAMES + mapping->nstored + Max(nmapped, 0))
		raise_protocol();
	find_stored(mapping, arguments + ARG_NAMES);
	find_compared(mapping, nmapped, arguments + ARG_NAMES);
	return mapping;
}

/*
 * The same for all rows of one statement: it has the table locked, and the executor
 * keeps what it knows of the trigger until its end.
 */
static Mapping *
kept_mapping(FunctionCallInfo fcinfo)
{
	FmgrInfo *function = fcinfo->flinfo;
	MemoryContext context;

	if (function->fn_extra == NULL)
	{
		context = MemoryContextSwitchTo(function->fn_mcxt);
		function->fn_extra = find_mapping(fcinfo);
		MemoryContextSwitchTo(context);
	}
	return function->fn_extra;
}

/* ---- comparing ---- */

/*
 * Equal images are equal values. Unequal images of equal values make an event
 * for nothing, which the engine finds out. A value out of line that an UPDATE did
 * not touch keeps its pointer, and is not fetched.
 */
static bool
same_value(Datum a, Datum b, const FormData_pg_attribute *attribute)
{
	if (attribute->attlen == -1 && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(a)) &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE_EXTERNAL(DatumGetPointer(a))) == 0)
		return true;
	return datum_image_eq(a, b, attribute->attbyval, attribute->attlen);
}

static bool
same_column(const Mapping *mapping, TupleTableSlot *a, TupleTableSlot *b, AttrNumber attnum)
{
	bool a_null;
	bool b_null;
	Datum a_value = slot_getattr(a, attnum, &a_null);
	Datum b_value = slot_getattr(b, attnum, &b_null);

	if (a_null || b_null)
		return a_null && b_null;
	return same_value(a_value, b_value, TupleDescAttr(mapping->desc, attnum - 1));
}

static bool
same_row(const Mapping *mapping, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < mapping->ncompared; i++)
		if (!same_column(mapping, a, b, mapping->compared[i]))
			return false;
	return true;
}

/* Do both rows lead to the same contacts? Then one of them is enough. */
static bool
same_stored(const Mapping *mapping, TupleTableSlot *a, TupleTableSlot *b)
{
	if (mapping->unstorable)
		return false;
	for (int i = 0; i < mapping->nstored; i++)
		if (!same_column(mapping, a, b, mapping->stored[i].attnum))
			return false;
	return true;
}

static bool
differs(const Mapping *mapping, TupleTableSlot *old_slot, TupleTableSlot *new_slot)
{
	return mapping->all || !same_row(mapping, old_slot, new_slot);
}

/* ---- for statements: the transition tables ---- */

static void
flush_rows(Note *note)
{
	MemoryContext context;

	if (note->nrows == 0)
		return;
	context = MemoryContextSwitchTo(note->chunk);
	mc_store_events(note->mapping->schema, note->mapping->source_id, note->mapping->relation_id,
					note->rows, note->nrows);
	MemoryContextSwitchTo(context);
	MemoryContextReset(note->chunk);
	note->nrows = 0;
	note->nbytes = 0;
}

static void
take_rows(Note *note, TupleTableSlot *old_slot, TupleTableSlot *new_slot)
{
	MemoryContext context = MemoryContextSwitchTo(note->chunk);
	McEventRow *row = &note->rows[note->nrows];

	if (make_event(note->mapping, old_slot, new_slot, row))
	{
		note->nrows++;
		note->nbytes += (row->old_row != NULL ? strlen(row->old_row) : 0) +
						(row->new_row != NULL ? strlen(row->new_row) : 0);
	}
	else
		note->unnamed = true;
	MemoryContextSwitchTo(context);
	if (note->nrows == CHUNK_ROWS || note->nbytes >= CHUNK_BYTES)
		flush_rows(note);
}

/* A read pointer of our own: other triggers of the statement read there too */
static TupleTableSlot *
open_rows(Note *note, Tuplestorestate *rows, int *pointer)
{
	*pointer = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND);
	tuplestore_select_read_pointer(rows, *pointer);
	tuplestore_rescan(rows);
	return MakeSingleTupleTableSlot(note->mapping->desc, &TTSOpsMinimalTuple);
}

static bool
next_row(Tuplestorestate *rows, int pointer, TupleTableSlot *slot)
{
	CHECK_FOR_INTERRUPTS();
	tuplestore_select_read_pointer(rows, pointer);
	return tuplestore_gettupleslot(rows, true, false, slot);
}

static void
note_rows(Note *note, Tuplestorestate *rows, bool old)
{
	int pointer;
	TupleTableSlot *slot = open_rows(note, rows, &pointer);

	while (!note->unnamed && next_row(rows, pointer, slot))
		take_rows(note, old ? slot : NULL, old ? NULL : slot);
	ExecDropSingleTupleTableSlot(slot);
}

static void
take_pair(Note *note, TupleTableSlot *old_slot, TupleTableSlot *new_slot)
{
	if (differs(note->mapping, old_slot, new_slot))
		take_rows(note, same_stored(note->mapping, old_slot, new_slot) ? NULL : old_slot, new_slot);
}

static void
note_pairs(Note *note, Tuplestorestate *old_rows, Tuplestorestate *new_rows)
{
	int old_pointer;
	int new_pointer;
	TupleTableSlot *old_slot = open_rows(note, old_rows, &old_pointer);
	TupleTableSlot *new_slot = open_rows(note, new_rows, &new_pointer);

	while (!note->unnamed && next_row(old_rows, old_pointer, old_slot) &&
		   next_row(new_rows, new_pointer, new_slot))
		take_pair(note, old_slot, new_slot);
	ExecDropSingleTupleTableSlot(old_slot);
	ExecDropSingleTupleTableSlot(new_slot);
}

/* The rows of a statement, paired where each has its other */
static void
note_tables(Note *note, Tuplestorestate *old_rows, int64 nold, Tuplestorestate *new_rows,
			int64 nnew)
{
	if (nold == nnew && nold > 0)
	{
		note_pairs(note, old_rows, new_rows);
		return;
	}
	if (nold > 0)
		note_rows(note, old_rows, true);
	if (nnew > 0)
		note_rows(note, new_rows, false);
}

static void
note_statement(FunctionCallInfo fcinfo)
{
	const TriggerData *trigger = (TriggerData *) fcinfo->context;
	Tuplestorestate *old_rows = trigger->tg_oldtable;
	Tuplestorestate *new_rows = trigger->tg_newtable;
	int64 nold = old_rows ? tuplestore_tuple_count(old_rows) : 0;
	int64 nnew = new_rows ? tuplestore_tuple_count(new_rows) : 0;
	Note note = {0};
	int nest_level;

	if (nold + nnew == 0 && !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return;
	note.mapping = find_mapping(fcinfo);
	note.unnamed = note.mapping->unstorable || TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event);
	note.chunk = AllocSetContextCreate(CurrentMemoryContext, "events", ALLOCSET_DEFAULT_SIZES);
	note.rows = palloc(sizeof(McEventRow) * Min(CHUNK_ROWS, nold + nnew));
	nest_level = pin_output();
	note_tables(&note, old_rows, nold, new_rows, nnew);
	flush_rows(&note);
	AtEOXact_GUC(true, nest_level);
	if (note.unnamed)
		store_unnamed(note.mapping);
	MemoryContextDelete(note.chunk);
}

/* ---- for rows ---- */

static void
note_row(const TriggerData *trigger, Mapping *mapping)
{
	TupleTableSlot *old_slot =
		TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? NULL : trigger->tg_trigslot;
	TupleTableSlot *new_slot = TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? trigger->tg_trigslot
							 : TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newslot
																		  : NULL;
	McEventRow row;
	int nest_level;

	if (old_slot != NULL && new_slot != NULL)
	{
		if (!differs(mapping, old_slot, new_slot))
			return;
		if (same_stored(mapping, old_slot, new_slot))
			old_slot = NULL;
	}
	nest_level = pin_output();
	if (make_event(mapping, old_slot, new_slot, &row))
		mc_store_events(mapping->schema, mapping->source_id, mapping->relation_id, &row, 1);
	else if (!mapping->told)
	{
		store_unnamed(mapping);
		mapping->told = true;
	}
	AtEOXact_GUC(true, nest_level);
}

/* ---- entry points ---- */

static void
check_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs < ARG_NAMES)
		raise_protocol();
}

Datum
mc_note_change(PG_FUNCTION_ARGS)
{
	check_call(fcinfo);
	if (TRIGGER_FIRED_FOR_ROW(((TriggerData *) fcinfo->context)->tg_event))
		note_row((TriggerData *) fcinfo->context, kept_mapping(fcinfo));
	else
		note_statement(fcinfo);
	return PointerGetDatum(NULL);
}

/*
 * What ALTER TRIGGER ... DEPENDS ON EXTENSION records, without its lock against
 * readers: the caller has just made the trigger and holds the lock for that.
 */
Datum
mc_depend_on_extension(PG_FUNCTION_ARGS)
{
	Oid relation = PG_GETARG_OID(0);
	Name name = PG_GETARG_NAME(1);
	ObjectAddress trigger;
	ObjectAddress extension;

	ObjectAddressSet(trigger, TriggerRelationId, get_trigger_oid(relation, NameStr(*name), false));
	ObjectAddressSet(extension, ExtensionRelationId, mc_extension_oid(false));
	recordDependencyOn(&trigger, &extension, DEPENDENCY_AUTO_EXTENSION);
	PG_RETURN_VOID();
}
