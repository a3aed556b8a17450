# A contact arrives: the main path from rows of the CRM to members at Mailchimp (R31-R33, R57, R67, R70, R73, R75, N1, N4,
# N5, N8, N15, D15, D21). What Mailchimp refuses is in 022_poison.pl, lost answers in 024_doubt.pl, leaving in 023_leave.pl.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 1200);
my ($node, $sim, $list) = @$crm{qw(node sim list)};

# -----------------------------------------------------------------------------------------------------------------
# Made, not switched on (D21); the preview asks nothing and shows all
# -----------------------------------------------------------------------------------------------------------------

$crm->run;
is($crm->requests, '', 'R2, D21: nothing is sent before the first mc_sync_audience');
is($crm->rita('SELECT state FROM mc_audience'), 'new', 'the audience is new');
is($crm->status, '', 'and has no contacts');

sub preview { return $crm->max("SELECT action, count(*) FROM mc_preview('people') GROUP BY 1 ORDER BY 1") }

$crm->ann("UPDATE crm.candidate SET active = false WHERE id > 1190;
	UPDATE crm.candidate SET linked = false WHERE id = 1190; UPDATE crm.candidate SET email = NULL WHERE id = 1189");
is(preview(), "skip|2\nsubscribe|1188", 'mc_preview: what would be done');
is($crm->max("SELECT contact_key, email, reason FROM mc_preview('people') WHERE action = 'skip' ORDER BY 1"),
	"1189||has no e-mail address\n1190|c1190\@crm.test|its link flag is off", 'and why not');
is($crm->max("SELECT source, email, before IS NULL, after FROM mc_preview('people') WHERE contact_key = '7'"),
	'candidate|c7@crm.test|t|{"tags": ["g1"], "email": "c7@crm.test", "merge_fields": {"FNAME": "F7", "LNAME": "L7", "OWNERNAME": "Bob Owner"}}',
	'what would be sent');
is($crm->requests, '', 'mc_preview asks nothing of Mailchimp');
$crm->ann("UPDATE crm.candidate SET active = true, linked = true, email = 'c' || id || '\@crm.test' WHERE id > 1188");

# -----------------------------------------------------------------------------------------------------------------
# Switched on: three requests, one of them held meanwhile
# -----------------------------------------------------------------------------------------------------------------

my $since = $crm->{since};
# requests of one moment arrive in any order; the first contact, by the key as text, is in a full one
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', body => '"c1@crm\\.test"', when => 'after');
$crm->max("SELECT mc_sync_audience('people')");
my $session = $node->session(as => 'max');
McTest::begin($session, 'CALL mc_run();');
$sim->wait_held;
$sim->wait_requests(2, since => $since, route => 'POST /lists/{list_id}');
$node->wait_until("SELECT in_sync = 700 AND pending = 500 AND contacts = 1200 FROM mc_audience_status");
pass('N8: the states add up while a request is under way');
is($crm->rita("SELECT phase, done, total FROM mc_progress WHERE work = 'push'"), 'sending|700|1200', 'mc_progress');
is($crm->rita("SELECT value, ok FROM mc_status WHERE item = 'worker'"), 'mc_run is running|t', 'mc_status knows who works');
$node->wait_until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.usename = 'max' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL))
	AND NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'max' AND locktype = 'relation')");
pass('no snapshot, transaction id or lock on a relation is held while a request is under way');
$sim->release;
$session->query('');
like($session->{stderr}, qr/NOTICE:  audience "people": 1200 of 1200 contacts are at Mailchimp/, 'N15: mc_run tells how far it is');
is($crm->status, 'in_sync 1200', 'all are there');
$session->quit;
$node->wait_until("SELECT sum(idx_scan) > 1200 FROM pg_stat_user_indexes WHERE schemaname = 'mailchimp_sync' AND relname = 'contact'");
is($node->query("SELECT sum(idx_tup_read) < 100 * 1200 FROM pg_stat_user_indexes WHERE schemaname = 'mailchimp_sync' AND relname = 'contact'"), 't',
	'a page costs what it has, not what the audience has, also before there are statistics');
my @journal = $crm->journal;
is(join(', ', map { "$_->{route} $_->{status}" } @journal),
	join(', ', 'GET /lists/{list_id}/merge-fields 200', 'POST /lists/{list_id}/merge-fields 200', ('POST /lists/{list_id} 200') x 3),
	'the list\'s fields are read, what misses is made, three requests carry 1,200 contacts');
is(join(' ', sort { $b <=> $a } map { scalar @{ $_->{body}{members} } } grep { $_->{body} && $_->{body}{members} } @journal), '500 500 200', 'up to 500 each');
is_deeply($journal[1]{body}, { tag => 'OWNERNAME', name => 'OWNERNAME', type => 'text' }, 'the merge field that the list lacked');
my ($seven) = grep { $_->{email_address} eq 'c7@crm.test' } map { @{ $_->{body}{members} } } @journal[2 .. 4];
is_deeply($seven, { email_address => 'c7@crm.test', status_if_new => 'subscribed', tags => ['g1'],
	merge_fields => { FNAME => 'F7', LNAME => 'L7', OWNERNAME => 'Bob Owner' } }, 'R70: what is sent of a contact');
ok($journal[2]{body}{update_existing}, 'R31: who is there is updated');

my %members = $crm->members;
is(scalar(grep { $_->{status} eq 'subscribed' } values %members), 1200, 'R73: 1,200 members');
is_deeply([ @{ $members{'c7@crm.test'} }{qw(merge_fields tags)} ],
	[ { %{ $members{'c7@crm.test'}{merge_fields} }, FNAME => 'F7', LNAME => 'L7', OWNERNAME => 'Bob Owner' }, ['g1'] ], 'with fields and tags (R33, R67)');
is($crm->rita("SELECT count(*), count(DISTINCT mailchimp_id), bool_and(active), bool_or(foreign_member), count(pushed_at), count(last_changed)
	FROM mc_member"), '1200|1200|t|f|1200|1200', 'mc_member has them');
is($crm->rita("SELECT audience, source, contact_key, status, merge_fields ->> 'FNAME', tags FROM mc_member WHERE email = 'c7\@crm.test'"),
	'people|candidate|7|subscribed|F7|{g1}', 'as Mailchimp shows them');
is($crm->rita("SELECT state, detail IS NULL, compared_at IS NOT NULL FROM mc_audience"), 'active|t|t', 'mc_audience');
is($crm->rita("SELECT count(*) FROM mc_merge_field WHERE mapped AND tag IN ('EMAIL', 'FNAME', 'LNAME', 'OWNERNAME')"), 4, 'mc_merge_field');
is($crm->rita("SELECT string_agg(work || ' ' || method || ' ' || path || ' ' || status || ' ' || outcome || ' ' || attempt, E'\\n' ORDER BY started_at)
	FROM (SELECT * FROM mc_request WHERE work <> 'refresh' ORDER BY started_at LIMIT 3) r"), join("\n",
	"field GET /lists/$list/merge-fields?count=1000 200 answered 1", "field POST /lists/$list/merge-fields 200 answered 1",
	"push POST /lists/$list?skip_merge_validation=true 200 answered 1"), 'mc_request');
is($crm->rita("SELECT count(*) FROM mc_progress"), 0, 'nothing is under way any more');
is($crm->rita("SELECT string_agg(item, ', ') FROM mc_status WHERE NOT ok"), 'worker', 'mc_status: all is well, but no worker runs');

# -----------------------------------------------------------------------------------------------------------------
# What has not changed costs no request (N5)
# -----------------------------------------------------------------------------------------------------------------

$crm->sync;
is($crm->requests, '', 'a full comparison of unchanged contacts');
$crm->ann("UPDATE crm.candidate SET first_name = first_name; UPDATE crm.owner SET name = name; UPDATE crm.candidate SET active = true");
$crm->run;
is($crm->requests, '', 'updates that change nothing');
is(preview(), '', 'the preview is empty');

$crm->later(86_400 + 60);
$crm->ann("ALTER TABLE crm.candidate DISABLE TRIGGER USER; UPDATE crm.candidate SET first_name = 'unseen' WHERE id = 5;
	DELETE FROM crm.candidate WHERE id = 6; ALTER TABLE crm.candidate ENABLE TRIGGER USER");
$crm->run;
is(join(', ', sort split /, /, $crm->requests), 'DELETE /lists/{list_id}/members/{subscriber_hash} 204, POST /lists/{list_id} 200',
	'N5: the daily comparison finds what no event told');
is($crm->shown('c5@crm.test'), 'subscribed|unseen|g2', 'a change');
is($crm->shown('c6@crm.test'), 'archived|F6|g0', 'and a row that is gone');
like($crm->rita("SELECT path FROM mc_request WHERE work = 'leave'"), qr{^/lists/\w+/members/\*$}, 'mc_request masks the hash of an address');

# -----------------------------------------------------------------------------------------------------------------
# One of them
# -----------------------------------------------------------------------------------------------------------------

is($crm->max("SELECT mc_sync_member('candidate', 7)"), 1, 'mc_sync_member: in one audience');
is($crm->max("SELECT mc_sync_member('candidate', ' 7')"), 1, 'the key as text');
is($crm->max("SELECT mc_sync_member('candidate', NULL::text)"), 0, 'no key: no audience');
$crm->run;
is($crm->requests, '', 'it is as it should be');
like($node->error("SELECT mc_sync_member('candidate', 'seven')", as => 'max'), qr/22P02: "seven" is not a key of source "candidate"/, 'nonsense');
like($node->error("SELECT mc_sync_member('candidates', 7)", as => 'max'), qr/42704: .*\nHINT: .*candidate/, 'an unknown source');
like($node->error("SELECT mc_sync_audience('peopel')", as => 'max'), qr/42704: .*\nHINT: .*people/, 'an unknown audience');
like($node->error("SELECT mc_sync_audience('people')", as => 'rita'), qr/42501/, 'a reader may not');
like($node->error("CALL mc_run()", as => 'rita'), qr/42501/, 'nor run');

# An existing member is adopted, foreign ones are left alone (D15, D20).
$sim->post('/_sim/act', { list => $list, email => 'New.One@crm.test', action => 'add', merge_fields => { FNAME => 'theirs' }, tags => ['by hand'] });
$sim->post('/_sim/act', { list => $list, email => 'foreign@crm.test', action => 'add', merge_fields => { FNAME => 'theirs' } });
$crm->ann("INSERT INTO crm.candidate VALUES (2001, 'Ours', NULL, 'new.one\@crm.test', 1, true, true, '{g9}')");
$crm->run;
is($crm->shown('new.one@crm.test'), 'subscribed|Ours|by hand,g9', 'D16, D20: adopted, a tag put on by hand stays');
is($crm->shown('foreign@crm.test'), 'subscribed|theirs|', 'D15: a foreign member is not touched');
is($crm->rita("SELECT count(*) FROM mc_member WHERE email = 'foreign\@crm.test' AND NOT foreign_member"), 0, 'nor called ours');
$crm->ann('DELETE FROM crm.candidate WHERE id = 2001');
$crm->run;
is($crm->shown('new.one@crm.test'), 'archived|Ours|by hand,g9', 'D20: the adopted one leaves like any other');
is($crm->shown('foreign@crm.test'), 'subscribed|theirs|', 'D15: the foreign one stays');

# -----------------------------------------------------------------------------------------------------------------
# A list with a double opt-in, and nothing to map
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/accounts', { key => 'second-us1', account_name => 'Second', lists => [ { name => 'Plain' }, { name => 'Double', double_optin => JSON::PP::true } ] });
$node->query("CREATE SERVER second FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $sim->url . "'); ALTER SERVER second OWNER TO ann");
$crm->ann("SELECT mc_connect('second', 'second-us1');
	SELECT mc_add_source('bare', 'crm.candidate', 'id', 'email', '{}');
	SELECT mc_create_audience('asked', 'second', 'Plain', 'bare', 'id = 1', double_opt_in => true);
	SELECT mc_create_audience('double', 'second', 'Double', 'bare', 'id = 2')");
$crm->requests;
$crm->sync('asked');
$crm->sync('double');
is($crm->requests, 'POST /lists/{list_id} 200, POST /lists/{list_id} 200', 'without merge fields none are read');
is($crm->rita("SELECT audience, email, status, active FROM mc_member WHERE audience IN ('asked', 'double') ORDER BY 1"),
	"asked|c1\@crm.test|pending|t\ndouble|c2\@crm.test|pending|t", 'double_opt_in, the audience\'s or the list\'s: pending');
is($crm->rita("SELECT state FROM mc_contact_state WHERE audience = 'asked'"), 'in_sync', 'which is in sync');

# -----------------------------------------------------------------------------------------------------------------
# CALL mc_run() in places where it cannot commit, and with odd settings of the session
# -----------------------------------------------------------------------------------------------------------------

like($node->error('BEGIN; CALL mc_run();', as => 'max'), qr/2D000: mc_run cannot be executed within a transaction\nHINT:  It commits as it goes/,
	'in a transaction block');
like($node->error('DO $$ BEGIN BEGIN CALL mc_run(); EXCEPTION WHEN division_by_zero THEN NULL; END; END $$', as => 'max'), qr/2D000: /, 'in a block with an exception handler');
$node->query('CREATE FUNCTION call_run() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL mc_run(); END $$');
like($node->error('SELECT call_run()', as => 'max'), qr/2D000: /, 'in a function');
is($node->error('DO $$ BEGIN CALL mc_run(); END $$', as => 'max'), '', 'a DO block is no transaction');

$crm->ann("UPDATE crm.candidate SET first_name = 'serial' WHERE id = 1");
is($node->error("SET default_transaction_isolation = serializable; SET statement_timeout = '60s'; SET search_path = pg_temp;
	SET datestyle = 'SQL, DMY'; CALL public.mc_run()", as => 'max'), '', 'a serializable session with other settings');
is($crm->shown('c1@crm.test'), 'subscribed|serial|g1', 'does its work');

# Cancelled while a request is under way: by hand, and by statement_timeout.
for my $how ('pg_cancel_backend', 'statement_timeout')
{
	$crm->ann("UPDATE crm.candidate SET first_name = '$how' WHERE id = 1");
	$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
	my $run = $node->session(as => 'max');
	$run->query("SET statement_timeout = '3s'") if $how eq 'statement_timeout';
	McTest::begin($run, 'CALL mc_run();');
	$sim->wait_held;
	$node->query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'max' AND query ~ 'mc_run' AND state = 'active'")
	  if $how eq 'pg_cancel_backend';
	$run->query('');
	like($run->{stderr}, qr/canceling statement due to/, "$how: mc_run is cancelled");
	is($node->query("SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objsubid = 1"), 0, 'and leaves no lock behind');
	is($node->query("SELECT count(*) FROM mailchimp_sync.slot() WHERE pid IS NOT NULL"), 0, 'nor a slot that is held');
	$sim->release;
	$run->query("SET statement_timeout = 0; CALL mc_run()");
	unlike($run->{stderr}, qr/ERROR.*ERROR/s, 'the next call works at once, in the same session');
	is($crm->shown('c1@crm.test'), "subscribed|$how|g1", 'and what was under way arrives');
	$run->quit;
}

# -----------------------------------------------------------------------------------------------------------------
# Nothing leaves: paused, off
# -----------------------------------------------------------------------------------------------------------------

sub nothing_leaves
{
	my ($what, $off, $on, $state) = @_;
	$crm->requests;
	$off->();
	$crm->ann("UPDATE crm.candidate SET first_name = '$what' WHERE id = 2");
	$crm->sync;
	is($crm->requests, '', "$what: nothing leaves");
	is($crm->rita("SELECT count(*) > 0 FROM mc_status WHERE NOT ok AND item ~ '$state'"), 't', 'mc_status says why');
	$on->();
	$crm->run;
	is($crm->shown('c2@crm.test'), "subscribed|$what|g2", 'afterwards it does');
}

nothing_leaves('audience paused', sub { $crm->ann("SELECT mc_pause('main', 'people')") }, sub { $crm->ann("SELECT mc_resume('main', 'people')") }, 'audience people');
nothing_leaves('connection paused', sub { $crm->ann("SELECT mc_pause('main')") }, sub { $crm->ann("SELECT mc_resume('main')") }, 'connection main');
nothing_leaves('send off', sub { $crm->setting(send => 'off') }, sub { $crm->setting(send => 'on') }, 'sending');

# -----------------------------------------------------------------------------------------------------------------
# A training connection (N18, R15): only the addresses that it was given
# -----------------------------------------------------------------------------------------------------------------

$crm->requests;
$crm->ann(q{SELECT mc_alter_connection('main', '{"only_addresses": ["C3@crm.test"]}')});
$crm->run;
$crm->ann("UPDATE crm.candidate SET first_name = 'trained' WHERE id IN (3, 4); UPDATE crm.candidate SET active = false WHERE id = 9");
$crm->run;
is($crm->pushed, '1', 'only one is sent, nobody is taken away');
is($crm->shown('c3@crm.test'), 'subscribed|trained|g0', 'the one that was given');
is($crm->state(4), 'not_allowed|is not among the addresses of the training connection', 'the others are not allowed');
is($crm->shown('c9@crm.test'), 'subscribed|F9|g0', 'who would leave stays, too');
$sim->post('/_sim/act', { list => $list, email => 'trainee@crm.test', action => 'add' });
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (9990, 'trainee\@crm.test')");
$crm->max("SELECT mc_opt_out('candidate', 9990)");
$crm->run;
is($crm->shown('trainee@crm.test'), 'subscribed||', 'nor is one unsubscribed of whom we know nothing');
$crm->ann('DELETE FROM crm.candidate WHERE id = 9990');
$crm->ann(q{SELECT mc_alter_connection('main', '{"only_addresses": []}'); UPDATE crm.candidate SET first_name = 'nobody' WHERE id = 3});
$crm->run;
is($crm->requests, '', 'an empty list allows nobody');
$crm->ann(q{SELECT mc_alter_connection('main', '{"only_addresses": null}')});
$crm->run;
is($crm->shown('c4@crm.test') . ' ' . $crm->shown('c3@crm.test') . ' ' . $crm->shown('c9@crm.test'),
	'subscribed|trained|g1 subscribed|nobody|g0 archived|F9|g0', 'without the list all are sent');

# -----------------------------------------------------------------------------------------------------------------
# Making and changing an audience: what is refused (R8, R10, R12, R111)
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/accounts', { key => 'twins-us1', account_name => 'Twins', lists => [ { name => 'Same' }, { name => 'Same' }, { name => 'Lone' } ] });
$node->query("CREATE SERVER twins FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $sim->url . "'); ALTER SERVER twins OWNER TO ann");
$crm->ann("SELECT mc_connect('twins', 'twins-us1')");

sub refused { my ($sql, $error, $what) = @_; like($node->error("SELECT $sql", as => 'ann'), $error, $what) }

refused("mc_create_audience('new', 'twins', 'Lonely', 'bare')", qr/42704: list "Lonely" does not exist\n(?s:.*)Lone/, 'an unknown list');
refused("mc_create_audience('new', 'twins', 'Same', 'bare')", qr/42P09: list name "Same" is ambiguous\nHINT:  Use one of these list ids: \w+, \w+\./, 'two lists of one name');
refused("mc_create_audience('new', 'twins', 'Lone', 'bar')", qr/42704: source "bar" does not exist/, 'an unknown source');
refused("mc_create_audience('new', 'twins', 'Lone', NULL, 'id = 1')", qr/22023: a rule needs a source/, 'a rule without a source');
refused("mc_create_audience('new', 'twins', 'Lone', 'bare', 'nonsense = 1')", qr/42703: rule over source "bare": column "nonsense" does not exist/, 'N9: a rule that does not parse');
refused("mc_create_audience('new', 'twins', 'Lone', 'bare', 'id')", qr/42804: .*rule over source "bare"/, 'a rule that is no condition');
refused("mc_create_audience('new', 'twins', 'Lone', 'bare', on_leave => 'delete')", qr/22023: on_leave cannot be "delete"/, 'an unknown policy');
refused("mc_create_audience('', 'twins', 'Lone', 'bare')", qr/22023: the audience needs a name/, 'no name');
refused("mc_create_audience('people', 'twins', 'Lone', 'bare')", qr/42710: audience "people" exists already\nHINT:  Change it with mc_alter_audience\./, 'a name that is taken');
refused("mc_create_audience('new', 'main', 'Customers', 'bare')", qr/42710: list "\w+" is coupled to audience "people" already/, 'a list that is taken');
refused(q{mc_alter_audience('people', '{"colour": "red"}')}, qr/22023: unknown setting "colour" of an audience\nHINT:  The settings are: rule, /, 'an unknown setting');
refused("mc_alter_audience('people', $_)", qr/22023: settings must be a JSON object\nHINT:  The settings are: rule, /, 'settings that are none')
  for 'NULL', q{'["every"]'};
refused(q{mc_alter_audience('people', '{"every": "1 second"}')}, qr/22023: every must be at least one minute/, 'an interval that is too short');
is($crm->ann("SELECT count(*) FROM mc_audience"), 3, 'nothing of that is left');
$crm->ann("SELECT mc_create_audience('twin', 'twins', (SELECT list_id FROM mc_list WHERE name = 'Same' LIMIT 1), 'bare', 'id = 1')");
is($crm->rita("SELECT list_name, sources, on_leave, every, read_every, state FROM mc_audience WHERE audience = 'twin'"),
	'Same|{bare}|archive|1 day|00:10:00|new', 'by its id it is taken, with the defaults');

# Dropped while a request of its is under way: nothing is left behind.
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->max("SELECT mc_sync_audience('twin')");
my $dropping = $node->session(as => 'max');
McTest::begin($dropping, 'CALL mc_run();');
$sim->wait_held;
$crm->ann("SELECT mc_drop_audience('twin')");
$sim->release;
$dropping->query('');
$dropping->quit;
is($crm->rita("SELECT count(*) FROM mc_member WHERE audience = 'twin'") . $node->query('SELECT count(*) FROM mailchimp_sync.member m
	WHERE NOT EXISTS (SELECT FROM mailchimp_sync.audience a WHERE a.audience_id = m.audience_id)'), '00', 'mc_drop_audience while a request is under way');

# -----------------------------------------------------------------------------------------------------------------
# A session that has run it keeps its plans, and works with the extension that is made next
# -----------------------------------------------------------------------------------------------------------------

my $again = $node->session;
my $url = $sim->url;
$again->query('CALL mc_run();');
$again->query("DROP EXTENSION mailchimp_sync CASCADE; CREATE EXTENSION mailchimp_sync; SELECT mc_connect('again', 'demo-us1', endpoint => '$url');
	SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{\"FNAME\": \"first_name\"}');
	SELECT mc_create_audience('again', 'again', 'Customers', 'candidate', 'id = 1'); UPDATE crm.candidate SET first_name = 'again' WHERE id = 1;
	SELECT mc_sync_audience('again');");
$again->{stderr} = '';
$again->query('CALL mc_run();');
unlike($again->{stderr}, qr/ERROR|WARNING/, 'nothing is amiss after DROP and CREATE EXTENSION');
$again->quit;
is($crm->shown('c1@crm.test') =~ s/\|g\d$//r, 'subscribed|again', 'a session that ran mc_run before runs it on');

done_testing();
