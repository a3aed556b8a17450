# mc_connect, mc_check_connection, mc_refresh and what becomes of a connection, with the simulator (R2-R7, R13, R16-R18,
# N12, N14). What needs no network is in sql/connection.sql, what becomes of the key in 011_secrets.pl.

use strict;
use warnings;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
my $url = $sim->url;
my $node = McTest::Node->start('main');
my $demo = $sim->post('/_sim/demo');

# A server with an endpoint takes a superuser; from then on it is its owner's.
sub give_server
{
	my ($name, $owner) = @_;
	$node->query("CREATE SERVER $name FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '$url');
		ALTER SERVER $name OWNER TO $owner");
}

sub requests { return scalar $sim->journal(@_) }

sub last_request { my @all = $sim->journal; return @all ? $all[-1]{n} : 0 }

# Routes of what was asked since a request, in order.
sub asked { my ($since) = @_; return join ' ', map { $_->{route} } $sim->journal(since => $since) }

$node->role('ann', level => 'admin');
$node->role('max', level => 'marketer');
$node->role('rita', level => 'reader');
give_server('crm', 'ann');

# -----------------------------------------------------------------------------------------------------------------
# Connecting
# -----------------------------------------------------------------------------------------------------------------

is($node->query("SELECT mc_connect('crm') IS NULL", as => 'ann'), 't', 'R17: authorising can be left for later');
is($node->query("SELECT state FROM mc_connection", as => 'rita'), 'no_key', 'and shows so');
is(requests(), 0, 'nothing was asked');

my $error = $node->error("SELECT mc_connect('crm', 'wrong-us1')", as => 'ann');
like($error, qr/28000: Mailchimp: API Key Invalid\nDETAIL:  Your API key may be invalid/, 'R6: a wrong key: Mailchimp\'s words');
is($node->query("SELECT count(*) FROM pg_user_mappings"), 0, 'and it is not stored');
is($node->query("SELECT state FROM mc_connection", as => 'rita'), 'no_key', 'nor is anything else');

my $since = last_request();
is($node->query("SELECT mc_connect('crm', 'demo-us1')", as => 'ann'), 'Demo', 'a good one gives the account\'s name');
is(asked($since), 'GET / GET /lists GET /templates GET /verified-domains', 'R13: four requests of API 3.0');
is($node->query("SELECT connection, owner, datacenter, account_name, state, detail, checked_at IS NOT NULL FROM mc_connection",
	as => 'rita'), 'crm|ann|us1|Demo|ok||t', 'mc_connection');
is($node->query("SELECT umuser::regrole, umoptions FROM pg_user_mapping"), 'ann|{api_key=demo-us1}', 'the owner\'s mapping has the key');
is($node->query("SELECT connection, list_id, name, from_name, from_email, member_count, audience FROM mc_list", as => 'rita'),
	"crm|$demo->{lists}[0]{id}|Customers|Demo|news\@example.org|0|", 'mc_list');
is($node->query("SELECT template_id, name, active, edited_at IS NOT NULL FROM mc_template ORDER BY 1", as => 'rita'),
	join("\n", map { "$_->{id}|$_->{name}|t|t" } @{ $demo->{templates} }), 'R3, R25: mc_template');
is($node->query("SELECT domain, verified, authenticated, advice FROM mc_domain", as => 'rita'), 'example.org|t|t|', 'mc_domain');

# -----------------------------------------------------------------------------------------------------------------
# Checking (R3-R7)
# -----------------------------------------------------------------------------------------------------------------

sub check { return $node->query("SELECT item, ok, detail FROM mc_check_connection('$_[0]')", as => 'max') }

is(check('crm'), "key|t|account Demo\nrole|t|owner\nlist|t|1 found\ntemplate|t|3 found\ndomain example.org|t|verified and authenticated",
	'all is well');

$sim->post('/_sim/accounts', { key => 'poor-us2', account_name => 'Poor', role => 'author', templates => [], domains => [
	{ domain => 'known.org', verified => JSON::PP::true, authenticated => JSON::PP::false }], lists => [
	map { { name => $_, campaign_defaults => { from_name => 'x', from_email => "x\@$_", subject => '', language => 'en' } } }
		'known.org', 'Strange.org' ] });
give_server('poor', 'ann');
$node->query("SELECT mc_connect('poor', 'poor-us2')", as => 'ann');
my $rows = check('poor');
like($rows, qr/^role\|f\|.*user is author.*manager, admin or owner$/m, 'a role that is too small');
like($rows, qr/^template\|f\|make a template/m, 'R3: no template');
like($rows, qr/^domain known\.org\|f\|authenticate known\.org .*CNAME and TXT \(SPF/m, 'R5: domain without records');
like($rows, qr/^domain strange\.org\|f\|verify strange\.org at Mailchimp/m, 'R4: unknown domain');
is($node->query("SELECT advice ~ 'authenticate' FROM mc_domain WHERE connection = 'poor'", as => 'rita'), 't', 'mc_domain advises, too');

$sim->post('/_sim/accounts', { key => 'empty-us3', account_name => 'Empty', lists => [], templates => [], domains => [] });
give_server('empty', 'ann');
$node->query("SELECT mc_connect('empty', 'empty-us3')", as => 'ann');
like(check('empty'), qr/^list\|f\|make an audience at Mailchimp/m, 'R7: no list');
like($node->error("SELECT mc_create_audience('nobody', 'empty', 'Customers')", as => 'ann'), qr/42704: list "Customers" does not exist/, 'R7: nothing to couple');

# -----------------------------------------------------------------------------------------------------------------
# Many pages, and what is gone
# -----------------------------------------------------------------------------------------------------------------

my $large = $sim->post('/_sim/accounts', { key => 'large-us4', account_name => 'Large', lists => [ { name => 'one' } ],
	templates => [ map { { name => "template $_" } } 1 .. 2000 ] });
give_server('large', 'ann');
$since = last_request();
$node->query("SELECT mc_connect('large', 'large-us4')", as => 'ann');
is($node->query("SELECT count(*), count(DISTINCT name), min(name), max(name) FROM mc_template WHERE connection = 'large'"),
	'2000|2000|template 1|template 999', 'two full pages of templates');
is(asked($since), 'GET / GET /lists GET /templates GET /templates GET /templates GET /verified-domains',
	'a walk ends with a short page');

$sim->post('/_sim/act', { template => $demo->{templates}[2]{id}, action => 'delete' });
$node->query("SELECT mc_refresh('crm')", as => 'max');
is($node->query("SELECT name FROM mc_template WHERE connection = 'crm' AND NOT active", as => 'rita'), 'Unfinished',
	'a template that was deleted at Mailchimp is not active any more');

# -----------------------------------------------------------------------------------------------------------------
# Merge fields (R109)
# -----------------------------------------------------------------------------------------------------------------

$node->query('CREATE TABLE person (id integer PRIMARY KEY, email text, first text); ALTER TABLE person OWNER TO ann');
$node->query(q{SELECT mc_add_source('person', 'person', 'id', 'email', '{"FNAME": "first"}');
	SELECT mc_create_audience('people', 'crm', 'Customers', 'person')}, as => 'ann');
is($node->query("SELECT audience FROM mc_list WHERE connection = 'crm'", as => 'rita'), 'people', 'mc_list shows the audience');
$since = last_request();
$node->query("SELECT mc_refresh('crm')", as => 'max');
like(asked($since), qr{ GET /lists/\{list_id\}/merge-fields$}, 'fields of coupled lists are read');
is($node->query("SELECT * FROM mc_merge_field ORDER BY tag", as => 'rita'),
	"people|EMAIL|Email Address|email|t|t|*|EMAIL|*\npeople|FNAME|First Name|text|f|t|*|FNAME|*\npeople|LNAME|Last Name|text|f|f|*|LNAME|*",
	'mc_merge_field');
$sim->post('/_sim/act', { list => $demo->{lists}[0]{id}, action => 'add_field', tag => 'CITY', name => 'City', type => 'text' });
$node->query("SELECT mc_refresh('crm')", as => 'max');
is($node->query("SELECT name, mapped FROM mc_merge_field WHERE tag = 'CITY'", as => 'rita'), 'City|f', 'a new field');

# -----------------------------------------------------------------------------------------------------------------
# Answers that are none: the reason in words, nothing stored, and later it works
# -----------------------------------------------------------------------------------------------------------------

sub refresh_error
{
	my (%fault) = @_;
	my $id = $sim->fault(path => '^/lists$', %fault);
	my $result = $node->error("SELECT mc_refresh('crm')", as => 'max');
	$sim->delete("/_sim/faults/$id");
	return $result;
}

like(refresh_error(fault => 'html_502'), qr/08006: no usable answer from Mailchimp\nDETAIL:  the answer is HTML .*502/, 'HTML');
like(refresh_error(fault => 'garbage'), qr/08006: .*\nDETAIL:  the answer is not JSON .*200/, 'nonsense');
like(refresh_error(fault => 'cut'), qr/08006: no usable answer.*\nDETAIL:  /, 'cut off');
like(refresh_error(fault => 'reset_before'), qr/08006: no usable answer.*\nDETAIL:  /, 'reset');
like(refresh_error(fault => { type => 'huge', bytes => 3_000_000 }), qr/08006: no usable answer/, 'a page without its array');
$node->query("ALTER SYSTEM SET mailchimp_sync.max_response = '1MB'; SELECT pg_reload_conf()");
$node->wait_until("SELECT current_setting('mailchimp_sync.max_response') = '1MB'");
like(refresh_error(fault => { type => 'huge', bytes => 3_000_000 }), qr/DETAIL: .*larger than mailchimp_sync.max_response/, 'too large');
$node->query("ALTER SYSTEM RESET mailchimp_sync.max_response; SELECT pg_reload_conf()");
like(refresh_error(fault => { type => 'status', status => 500, json => JSON::PP::true }), qr/38000: Mailchimp: /, '500 with a reason');
like(refresh_error(fault => { type => 'status', status => 204, body => '' }), qr/08006: no usable answer.*\nDETAIL:  the answer .HTTP status 204. has no "lists"/, 'nothing instead of lists');
like(refresh_error(fault => { type => 'status', status => 429, body => '', headers => { 'retry-after' => '3600' } }),
	qr/53300: Mailchimp refuses requests at the moment.*\nHINT: .*few minutes/s, 'refused for longer than anybody would wait');
is(refresh_error(fault => 'bare_429'), '', 'refused for a moment: asked again');
is(refresh_error(fault => 'bare_403'), '', 'in the other way that Mailchimp has of saying so');
is($node->query("SELECT count(*) FROM mc_list WHERE connection = 'crm'", as => 'rita'), 1, 'the lists are there as before');
$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '300ms'; SELECT pg_reload_conf()");
$node->wait_until("SELECT current_setting('mailchimp_sync.request_timeout') = '300ms'");
like(refresh_error(fault => 'hang'), qr/08006: no usable answer.*\nDETAIL: .*timed out/i, 'no answer in time');
$node->query("ALTER SYSTEM RESET mailchimp_sync.request_timeout; SELECT pg_reload_conf()");
$node->wait_until("SELECT current_setting('mailchimp_sync.request_timeout') <> '300ms'");

# A user of Mailchimp who may not see everything, and a list that was deleted there.
my $fault = $sim->fault(path => '^/verified-domains$', fault => { type => 'status', status => 403, json => JSON::PP::true });
like($node->error("SELECT mc_refresh('crm'); SELECT 1/0", as => 'max'), qr/WARNING: .*Mailchimp does not show the sending domains/,
	'what is not shown is warned of');
is($node->query("SELECT count(*) FROM mc_domain WHERE connection = 'crm'", as => 'rita'), 1, 'and stays as it was');

# mc_check_connection tells instead of failing, and the connection shows it
$fault = $sim->fault(path => '^/$', fault => 'html_502');
is(check('crm') =~ s/:.*//sr, 'key|f|No usable answer', 'mc_check_connection without an answer');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'unreachable', 'the connection shows it');
like(check('crm'), qr/^key\|t/, 'it is back');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'ok', 'and shows it');

# -----------------------------------------------------------------------------------------------------------------
# Slots: a foreground call waits for its turn, and can be cancelled
# -----------------------------------------------------------------------------------------------------------------

$node->query(q{SELECT mc_alter_connection('large', '{"max_connections": 1}')}, as => 'ann');
$sim->delete('/_sim/open');
$sim->hold(method => 'GET', path => '^/$', when => 'before');
my ($one, $two) = map { $node->session(as => 'max') } 1 .. 2;
McTest::begin($one, "SELECT mc_refresh('large');");
$sim->wait_held(1);
McTest::begin($two, "SELECT mc_refresh('large');");
$node->wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'max' AND wait_event_type = 'Extension' AND state = 'active'");
$sim->release;
$_->query('') for $one, $two;
is($one->{stderr} . $two->{stderr}, '', 'both were served');
is($sim->get('/_sim/open')->{users}{ $large->{login_id} }{max}, 1, 'one after the other');

$sim->hold(method => 'GET', path => '^/templates$', when => 'before');
McTest::begin($one, "SELECT mc_refresh('large');");
$sim->wait_held(1);
is($node->query("SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a USING (pid)
	WHERE a.usename = 'max' AND l.mode NOT IN ('AccessShareLock')"), 0, 'while it waits it holds no lock that anybody minds');
$node->query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'max' AND wait_event_type = 'Extension'");
$one->query('');
like($one->{stderr}, qr/canceling statement due to user request/, 'a call that waits can be cancelled');
$sim->release;

# What was sent may go on at Mailchimp, whatever ended the call.
my $count_haunted = 'SELECT count(*) FROM mailchimp_sync.slot() WHERE pid IS NULL';
my $haunted = $node->query($count_haunted);
$sim->hold(method => 'GET', path => '^/templates$', when => 'before');
McTest::begin($two, "SELECT mc_refresh('crm');");
$sim->wait_held(1);
$node->query("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'max' AND wait_event_type = 'Extension'");
is($node->query($count_haunted), $haunted + 1, 'the slot of a process that was ended stays taken');
$sim->release;
$one->quit;
eval { $two->quit };

# -----------------------------------------------------------------------------------------------------------------
# A revoked key, a new one
# -----------------------------------------------------------------------------------------------------------------

$sim->delete('/_sim/keys/demo-us1');
like(check('crm'), qr/^key\|f\|API Key Invalid: .*Give a new key to mc_connect\.$/, 'revoked: mc_check_connection says what to do');
is($node->query("SELECT state, detail ~ 'API key may be invalid' FROM mc_connection WHERE connection = 'crm'", as => 'rita'),
	'auth_failed|t', 'the state has Mailchimp\'s words');
like($node->error("SELECT mc_refresh('crm')", as => 'max'), qr/28000: Mailchimp: API Key Invalid/, 'mc_refresh raises them');
$sim->post('/_sim/keys', { key => 'new-us1', login_id => $demo->{login_id} });
is($node->query("SELECT mc_connect('crm', 'new-us1')", as => 'ann'), 'Demo', 'again = replace');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'ok', 'a new key resumes');

# The key of another role, and the public one, are never taken.
$node->query("CREATE USER MAPPING FOR max SERVER crm OPTIONS (api_key 'wrong-us1');
	CREATE USER MAPPING FOR PUBLIC SERVER crm OPTIONS (api_key 'wrong-us1')");
is($node->error("SELECT mc_refresh('crm')", as => 'max'), '', 'R18: only the owner\'s mapping counts, others need no key of theirs');
$node->query("DROP USER MAPPING FOR max SERVER crm; DROP USER MAPPING FOR PUBLIC SERVER crm");

# -----------------------------------------------------------------------------------------------------------------
# The key in a file: read each time
# -----------------------------------------------------------------------------------------------------------------

my $file = $node->data_dir . '/mailchimp.key';
sub write_key { my ($key) = @_; open my $out, '>', $file or die; print $out $key; close $out }
write_key("  new-us1\r\n");
is($node->query("SELECT mc_connect('crm', api_key_file => 'mailchimp.key')"), 'Demo', 'from a file below the data directory');
is($node->query("SELECT umoptions FROM pg_user_mapping m JOIN pg_foreign_server s ON s.oid = umserver WHERE srvname = 'crm'"),
	'{api_key_file=mailchimp.key}', 'instead of the key');
is($node->error("SELECT mc_refresh('crm')", as => 'max'), '', 'others can work with it');
is($node->query("SELECT mc_connect('crm')", as => 'ann'), 'Demo', 'connecting anew takes what is stored');
write_key('other-us1');
like($node->error("SELECT mc_refresh('crm')", as => 'max'), qr/28000: Mailchimp: API Key Invalid/, 'it is read each time');
write_key('two words');
like($node->error("SELECT mc_refresh('crm')", as => 'max'), qr/22023: file "mailchimp.key" does not hold an API key/, 'nonsense in it');
write_key('x' x 100_000);
like($node->error("SELECT mc_refresh('crm')", as => 'max'), qr/22023: file "mailchimp.key" does not hold an API key/, 'a large file');
unlink $file;
like(check('crm'), qr/^key\|f\|could not read the API key from file "mailchimp.key": No such file/, 'no file');
is($node->query("SELECT mc_connect('crm', 'new-us1')", as => 'ann'), 'Demo', 'back to a key');

# -----------------------------------------------------------------------------------------------------------------
# Another account
# -----------------------------------------------------------------------------------------------------------------

$node->query("INSERT INTO person VALUES (1, 'one\@example.org', 'One')");
$node->query("SELECT mc_sync_audience('people'); CALL mc_run()", as => 'ann');
is($node->query("SELECT c.state, m.email FROM mc_contact_state c, mc_member m", as => 'rita'), 'in_sync|one@example.org', 'a member');
my $campaign = $node->query("SELECT mc_create_campaign('News', 'people', 'Newsletter')", as => 'ann');
$sim->post('/_sim/accounts', { key => 'second-us5', account_name => 'Second', lists => [ { name => 'Elsewhere' } ] });
like($node->error("SELECT mc_connect('crm', 'second-us5')", as => 'ann'),
	qr/55000: the key belongs to another account.*"Demo".*switch_account => true/s, 'another account is refused');
is($node->query("SELECT account_name FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'Demo', 'nothing has changed');
is($node->query("SELECT umoptions FROM pg_user_mapping m JOIN pg_foreign_server s ON s.oid = umserver WHERE srvname = 'crm'"),
	'{api_key=new-us1}', 'not the key either');
is($node->query("SELECT mc_connect('crm', 'second-us5', switch_account => true)", as => 'ann'), 'Second', 'unless it is meant');
is($node->query("SELECT name FROM mc_list WHERE connection = 'crm'", as => 'rita'), 'Elsewhere', 'its lists');
is($node->query("SELECT state FROM mc_audience WHERE audience = 'people'", as => 'rita'), 'new', 'audiences wait to be told');
is($node->query("SELECT c.state, (SELECT count(*) FROM mc_member) FROM mc_contact_state c", as => 'rita'), 'pending|0', 'nobody is a member there');
is($node->query("SELECT status, template_id IS NULL FROM mc_campaign WHERE campaign_id = $campaign", as => 'rita'), 'draft|t', 'a draft wants another template');
is($node->query("SELECT count(*) FROM mc_merge_field WHERE tag <> 'EMAIL'", as => 'rita'), 0, 'fields of the other list are forgotten');
is($node->query("SELECT mc_connect('crm', 'new-us1', switch_account => true)", as => 'ann'), 'Demo', 'and back');
$node->query("SELECT mc_sync_audience('people'); CALL mc_run()", as => 'ann');
is($node->query("SELECT c.state, m.email FROM mc_contact_state c, mc_member m", as => 'rita'), 'in_sync|one@example.org', 'sent again when told to');

# -----------------------------------------------------------------------------------------------------------------
# Nothing is sent: paused, off, a copy (N14)
# -----------------------------------------------------------------------------------------------------------------

sub usable { return $node->query("SELECT count(*) FROM mailchimp_sync.usable_connection WHERE connection = 'crm'", @_) }

is(usable(), 1, 'the engine may use it');
$node->query("SELECT mc_pause('crm')", as => 'ann');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'paused', 'paused');
is(usable(), 0, 'the engine may not');
$since = last_request();
like($node->error("SELECT mc_refresh('crm')", as => 'max'), qr/55000: connection "crm" is paused/, 'nor anybody else');
like($node->error("SELECT mc_connect('crm', 'new-us1')", as => 'ann'), qr/55000: connection "crm" is paused/, 'by no way');
is(last_request(), $since, 'no request');
like(check('crm'), qr/^key\|t/, 'but looking is possible');
$node->query("SELECT mc_resume('crm')", as => 'ann');
$node->query("SELECT mc_pause('crm', 'people')", as => 'ann');
is($node->query("SELECT state FROM mc_audience", as => 'rita'), 'paused', 'one audience');
is(usable(), 1, 'not the connection');
$node->query("SELECT mc_resume(audience => 'people')", as => 'ann');
is($node->query("SELECT state FROM mc_audience", as => 'rita'), 'active', 'goes on');

$node->query("ALTER DATABASE postgres SET mailchimp_sync.send = off");
$since = last_request();
like($node->error("SELECT mc_refresh('crm')", as => 'max'), qr/55000: nothing may be sent.*mailchimp_sync.send is off/s, '.send = off');
is(usable(), 0, 'for the engine, too');
is(last_request(), $since, 'no request');
like(check('crm'), qr/^key\|t/, 'but looking is possible');
$node->query("ALTER DATABASE postgres RESET mailchimp_sync.send");

$node->query('SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
	CREATE DATABASE copy TEMPLATE postgres', db => 'template1');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita', db => 'copy'), 'restored', 'a copy knows that it is one');
is(usable(db => 'copy'), 0, 'and sends nothing');
$since = last_request();
like($node->error("SELECT mc_refresh('crm')", as => 'max', db => 'copy'), qr/55000: nothing may be sent.*copy of another/s, 'in no way');
is(last_request(), $since, 'no request');
like($node->query("SELECT item, ok FROM mc_check_connection('crm')", as => 'max', db => 'copy'), qr/^key\|t/, 'but looking is possible');
$node->query('UPDATE mailchimp_sync.audience SET compare_asked_at = NULL', db => 'copy');
$node->query('SELECT mc_resume()', as => 'ann', db => 'copy');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita', db => 'copy'), 'ok', 'until somebody says so');
is($node->query('SELECT count(*) FROM mailchimp_sync.audience WHERE compare_asked_at IS NOT NULL', db => 'copy'), 1, 'and compares everything');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'ok', 'the first one goes on as well');
$node->query("ALTER SYSTEM SET mailchimp_sync.instance = 'other machine'; SELECT pg_reload_conf()");
$node->wait_until("SELECT state = 'restored' FROM mc_connection WHERE connection = 'crm'");
pass('another instance: fenced as well');
$node->query("ALTER SYSTEM RESET mailchimp_sync.instance; SELECT pg_reload_conf()");
$node->wait_until("SELECT state = 'ok' FROM mc_connection WHERE connection = 'crm'");

# -----------------------------------------------------------------------------------------------------------------
# Plain DDL, and disconnecting
# -----------------------------------------------------------------------------------------------------------------

give_server('plain', 'ann');
$node->query("CREATE USER MAPPING FOR ann SERVER plain OPTIONS (api_key 'new-us1')", as => 'ann');
is($node->query("SELECT state, detail FROM mc_connection WHERE connection = 'plain'", as => 'ann'),
	'no_key|its key was not tried yet; call mc_refresh', 'plain DDL');
$node->query("SELECT mc_refresh('plain')", as => 'max');
is($node->query("SELECT state, datacenter, account_name FROM mc_connection WHERE connection = 'plain'", as => 'rita'), 'ok|us1|Demo',
	'works as well, and who has a grant on all connections has it on this one');

$since = last_request();
$node->query("SELECT mc_disconnect('crm')", as => 'ann');
is(last_request(), $since, 'mc_disconnect asks nothing');
is($node->query("SELECT state FROM mc_connection WHERE connection = 'crm'", as => 'rita'), 'missing', 'the connection is missing');
is($node->query("SELECT audience FROM mc_audience", as => 'rita'), 'people', 'its audience is kept');
is($node->query("SELECT count(*) FROM pg_user_mappings WHERE srvname = 'crm'"), 0, 'its key is gone');
give_server('crm', 'ann');
is($node->query("SELECT mc_connect('crm', 'new-us1')", as => 'ann'), 'Demo', 'it can come back');
like($node->error("SELECT mc_connect('crm', 'second-us5')", as => 'ann'), qr/another account/, 'as the account that it was');

# -----------------------------------------------------------------------------------------------------------------
# Texts that the server's encoding cannot hold
# -----------------------------------------------------------------------------------------------------------------

my $names = '{"lists":[{"id":"a","name":"Caf\\u00e9 \\u2603 \\ud83d\\ude00 x"},{"id":"b","name":"nul\\u0000l \\\\u0000"},'
	. '{"id":"c","name":"half \\ud83d pair \\ude00"}]}';
for my $encoding ('UTF8', 'LATIN1', 'EUC_JP', 'SQL_ASCII')
{
	my $db = lc "in_$encoding";
	$node->query("CREATE DATABASE $db ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	$node->query('CREATE EXTENSION mailchimp_sync', db => $db);
	$sim->fault(path => '^/lists$', fault => { type => 'status', status => 200, body => $names, headers => { 'content-type' => 'application/json' } });
	is($node->query("SELECT mc_connect('c', 'new-us1', endpoint => '$url')", db => $db), 'Demo', "connected in $encoding");
	my %snow = (UTF8 => 'e29883', SQL_ASCII => 'e29883');
	my %face = (UTF8 => 'f09f9880', SQL_ASCII => 'f09f9880');
	my %e = (UTF8 => 'c3a9', SQL_ASCII => 'c3a9', LATIN1 => 'e9', EUC_JP => '8fabb1');
	is($node->query("SELECT encode(textsend(name), 'hex') FROM mc_list WHERE list_id = 'a'", db => $db),
		'436166' . $e{$encoding} . '20' . ($snow{$encoding} // '3f') . '20' . ($face{$encoding} // '3f') . '2078', "what it can hold, else ?");
	is($node->query("SELECT name FROM mc_list WHERE list_id > 'a' ORDER BY 1", db => $db), "half ? pair ?\nnull \\u0000", 'no NUL, no half pairs');
}

# ROLLBACK undoes it all
$node->query("BEGIN; SELECT mc_connect('gone', 'new-us1', endpoint => '$url'); ROLLBACK");
is($node->query("SELECT count(*) FROM mc_connection WHERE connection = 'gone'"), 0, 'ROLLBACK leaves nothing');

done_testing();
