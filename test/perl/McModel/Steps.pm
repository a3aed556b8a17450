# What can happen in the model test, step by step. A step is drawn with its weight; what it does depends on its own random numbers
# alone, so that it stays the same when others are left out.
#
#   McModel::Steps::one($model, $draw);
#
# The pools are small, so that rows, addresses and people at Mailchimp meet again and again.

package McModel::Steps;

use strict;
use warnings;
use JSON::PP;

my @names = ('Ann', 'Bob', 'Eve', 'Zoe', "O''Hara", 'de Vries', U8('Ren&#233;'));
my @tags = ('Java', 'Perl', 'two words', 'comma, quote"');
my %rules = (
	candidate => [ 'active', 'level >= 2', 'active AND level < 3', 'true', q{groups && ARRAY['Java']},
		q{owner_id IN (SELECT o.id FROM crm.owner o WHERE o.name < 'D')} ],
	client => [ q{kind = 'customer'}, 'true', q{kind IS DISTINCT FROM 'lead'}, 'company_id IS NOT NULL' ]);

my @coupled = ([ 'people', 'candidate' ], [ 'clients', 'client' ], [ 'news', 'candidate' ], [ 'news', 'client' ]);

sub U8 { my ($text) = @_; $text =~ s/&#(\d+);/chr $1/ge; utf8::encode($text); return $text }

# name => [ weight, function of the model and the random numbers ]; in an order, on which the drawing depends
my @steps = (
	# ---- the CRM
	'a new candidate' => [ 12, sub { my ($m, $d) = @_; $m->sql(candidate($d)) } ],
	'a new client' => [ 8, sub { my ($m, $d) = @_; $m->sql(client($d)) } ],
	'a changed candidate' => [ 14, sub { my ($m, $d) = @_; $m->sql(sprintf 'UPDATE crm.candidate SET %s WHERE %s', candidate_change($d), some($d, 'candidate')) } ],
	'a changed client' => [ 8, sub { my ($m, $d) = @_; $m->sql(sprintf 'UPDATE crm.client SET %s WHERE %s', client_change($d), some($d, 'client')) } ],
	'a new address' => [ 6, sub {
		my ($m, $d) = @_;
		my $kind = $d->of('candidate', 'client');
		$m->sql(sprintf q{UPDATE crm.%s SET email = 'r%d@m.test' WHERE %s}, $kind, $m->{step}, one_of($d, $kind));
	} ],
	'an address that others have or had' => [ 4, sub {
		my ($m, $d) = @_;
		my $kind = $d->of('candidate', 'client');
		$m->sql(sprintf 'UPDATE crm.%s SET email = %s WHERE %s', $kind, email($d), one_of($d, $kind));
	} ],
	'addresses that change hands' => [ 4, \&exchange ],
	'another spelling' => [ 3, sub {
		my ($m, $d) = @_;
		my $kind = $d->of('candidate', 'client');
		$m->sql(sprintf 'UPDATE crm.%s SET email = %s WHERE %s', $kind, $d->of('upper(email)', q{' ' || email}, 'initcap(email)', q{email || ' '}, 'lower(btrim(email))'), one_of($d, $kind));
	} ],
	'a broken address' => [ 2, sub {
		my ($m, $d) = @_;
		my $kind = $d->of('candidate', 'client');
		$m->sql(sprintf 'UPDATE crm.%s SET email = %s WHERE %s', $kind, broken($d), one_of($d, $kind));
	} ],
	'a deleted row' => [ 5, sub { my ($m, $d) = @_; my $kind = $d->of('candidate', 'client'); $m->sql("DELETE FROM crm.$kind WHERE " . some($d, $kind)) } ],
	'another key' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf 'UPDATE crm.candidate SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM crm.candidate c WHERE c.id = %1$d)', $d->int(40), $d->int(40)) } ],
	'many rows' => [ 2, sub {
		my ($m, $d) = @_;
		$m->sql(sprintf q{INSERT INTO crm.candidate (id, first_name, email, linked, active, level) SELECT g, 'many', 'p' || g || '@m.test', true, true, g %% 4
			FROM generate_series(%d, %d) g ON CONFLICT (id) DO UPDATE SET first_name = 'many %d'}, 0, $d->int(40), $m->{step});
	} ],
	'an emptied table' => [ 1, sub { my ($m, $d) = @_; $m->sql('TRUNCATE crm.' . $d->weighted(owner => 4, company => 4, candidate => 1, client => 1)) } ],
	'an owner' => [ 4, sub {
		my ($m, $d) = @_;
		$m->sql(sprintf q{INSERT INTO crm.owner VALUES (%d, '%s') ON CONFLICT (id) DO UPDATE SET name = excluded.name}, $d->int(4), $d->of(@names) . $d->int(3));
	} ],
	'an owner less' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf 'DELETE FROM crm.owner WHERE id = %d', $d->int(4)) } ],
	'a company' => [ 3, sub {
		my ($m, $d) = @_;
		$m->sql(sprintf q{INSERT INTO crm.company VALUES (%d, %s) ON CONFLICT (id) DO NOTHING}, $d->int(8), email($d));
	} ],
	'a transaction' => [ 6, \&transaction ],
	'a transaction that stays open' => [ 3, sub { my ($m, $d) = @_; $m->slow(join '; ', map { change($d, $m->{step}) } 0 .. $d->int(3)) } ],
	'its end' => [ 3, sub { my ($m, $d) = @_; $m->slow_end($d->weighted(COMMIT => 3, ROLLBACK => 1)) } ],

	# ---- rules, policies and hands
	'a rule' => [ 2, sub {
		my ($m, $d) = @_;
		my ($audience, $source) = @{ $d->of(@coupled) };
		my $rule = '$r$' . $d->of(@{ $rules{$source} }) . '$r$';
		my $call = $audience eq 'news' ? "mc_add_audience_source('news', '$source', $rule)" : "mc_alter_audience('$audience', jsonb_build_object('rule', $rule))";
		$m->sql("BEGIN; SELECT model.add_source('$audience', '$source', $rule); SELECT $call; COMMIT");
	} ],
	'a source less' => [ 0.25, sub {
		my ($m, $d) = @_;
		my ($source, $other) = $d->of([ 'candidate', 'client' ], [ 'client', 'candidate' ])->@*;
		$m->sql("BEGIN; SELECT model.drop_source('news', '$source'); SELECT mc_drop_audience_source('news', '$source'); COMMIT")
		  if $m->has_source('news', $source) && $m->has_source('news', $other);
	} ],
	'a hand' => [ 4, sub {
		my ($m, $d) = @_;
		my ($audience, $source) = @{ $d->of(@coupled) };
		my ($id, $who) = ($source eq 'candidate' ? 'id' : 'code', one_of($d, $source));
		return unless $m->has_source($audience, $source);
		my ($call, $told) = @{ $d->of([ 'mc_add_member', "INSERT INTO model.hand SELECT '$audience', '$source', $id\::text, true FROM" ],
			[ 'mc_remove_member', "INSERT INTO model.hand SELECT '$audience', '$source', $id\::text, false FROM" ],
			[ 'mc_release_member', '' ]) };
		$m->sql("BEGIN; SELECT $call('$audience', '$source', $id) FROM crm.$source WHERE $who;
			DELETE FROM model.hand h USING crm.$source c WHERE c.$who AND h.audience = '$audience' AND h.source = '$source' AND h.key = c.$id\::text;"
			. ($told && "$told crm.$source WHERE $who;") . 'COMMIT');
	} ],
	'a policy' => [ 1, sub {
		my ($m, $d) = @_;
		my ($name, @values) = @{ $d->of([ 'on_leave', 'archive', 'archive', 'unsubscribe', 'keep' ], [ 'on_unsubscribe', 'opt_out', 'inactive', 'ignore' ], [ 'double_opt_in', 'true', 'false' ]) };
		my $value = $d->of(@values);
		my $audience = $d->of('people', 'clients', 'news');
		$m->sql(qq{BEGIN; UPDATE model.audience SET $name = '$value' WHERE audience = '$audience'; SELECT mc_alter_audience('$audience', '{"$name": "$value"}'); COMMIT});
	} ],
	'a full comparison' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf q{SELECT mc_sync_audience('%s')}, $d->of('people', 'clients', 'news')) } ],
	'one contact' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf q{SELECT mc_sync_member('candidate', %d)}, $d->int(40)) } ],
	'retry' => [ 1, sub { my ($m, $d) = @_; $m->sql('SELECT mc_retry()') } ],

	# ---- opting out and in
	'an opt-out' => [ 2, \&opt_out ],
	'an opt-in' => [ 2, \&opt_in ],

	# ---- Mailchimp
	'somebody at Mailchimp' => [ 12, \&act ],

	# ---- trouble
	'a fault' => [ 6, \&fault ],
	'a hold' => [ 3, sub {
		my ($m, $d) = @_;
		$m->control('holds', { route($d), nth => 1 + $d->int(3), when => $d->of('before', 'after') });
	} ],
	'a release' => [ 2, sub { my ($m, $d) = @_; $m->control('holds/release', { all => JSON::PP::true }) } ],
	'no faults' => [ 1, sub { my ($m, $d) = @_; $m->say('no faults'); $m->{sim}->delete('/_sim/faults') } ],
	'latency' => [ 1, sub { my ($m, $d) = @_; $m->control('latency', { request_ms => $d->of(0, 10, 50) }) } ],
	'a limit' => [ 1, sub { my ($m, $d) = @_; $m->control('limit', { per_user => $d->of(1, 2, 10) }) } ],
	'time' => [ 3, sub { my ($m, $d) = @_; $m->later($d->of(1, 5, 30, 140, 700)) } ],
	'a while' => [ 8, sub { my ($m, $d) = @_; $m->wait_request } ],
	'a killed worker' => [ 0.25, sub { $_[0]->kill_worker } ],
	'a stopped server' => [ 0.25, sub { $_[0]->stop_server } ],
	'no worker' => [ 1, sub { $_[0]->stop_worker } ],
	'a worker' => [ 1, sub { $_[0]->start_worker } ],
	'CALL mc_run()' => [ 3, sub { $_[0]->run } ],
	'a pause' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf q{SELECT mc_pause('%s'%s)}, @{ $d->of([ 'main', '' ], [ 'main', q{, 'people'} ], [ 'second', q{, 'clients'} ]) }) } ],
	'a resumption' => [ 1, sub { my ($m, $d) = @_; $m->resume } ]);

my (@weights, %does);
while (my ($name, $step) = splice @steps, 0, 2)
{
	push @weights, $name, 4 * $step->[0];
	$does{$name} = $step->[1];
}

sub one
{
	my ($m, $d) = @_;
	my $name = $d->weighted(@weights);
	$m->{doing} = $name;
	$does{$name}->($m, $d);
}

# ---- rows

sub text { my ($d) = @_; return $d->weighted(NULL => 1, q{''} => 1, map { ("'$_'" => 2) } @names) }
sub boolean { my ($d) = @_; return $d->weighted(true => 8, false => 3, NULL => 1) }
sub array { my ($d) = @_; return $d->weighted(NULL => 1, q{'{}'} => 1, "ARRAY[NULL, '', 'Java']" => 1, 'x' => 5) =~ s/^x$/"ARRAY[" . join(', ', map { "'$_'" } $d->of(@tags), $d->of(@tags)) . "]"/er }
sub broken { my ($d) = @_; return $d->of('NULL', q{''}, q{'  '}, q{'nonsense'}, q{'a@b@m.test'}, q{'x@nodot'}, q{E'tab@m.test\t'}, q{'a b@m.test'}) }

# an address of the pool in one of its spellings, or none, or one that Mailchimp refuses
sub email
{
	my ($d) = @_;
	my $n = $d->int(50);
	return $d->weighted("'p$n\@m.test'" => 12, "'P$n\@M.test'" => 2, "' p$n\@m.test '" => 2, broken($d) => 2, "'fake$n\@m.test'" => 1, "'toomany$n\@m.test'" => 1, "'x$n\@example.com'" => 1);
}

sub owner { my ($d) = @_; return $d->weighted(NULL => 1, map { ($_ => 2) } 0 .. 3) }
sub born { my ($d) = @_; return $d->weighted(NULL => 6, q{'1970-01-31'} => 3, q{'2001-12-01'} => 3, q{'yesterday'} => 1) }
sub code { my ($d) = @_; return $d->of('a' .. 'j', 'A' .. 'F', '0', '10', '9', 'with space') }
sub kind { my ($d) = @_; return $d->weighted(q{'customer'} => 6, q{'lead'} => 2, NULL => 1) }
sub company { my ($d) = @_; return $d->weighted(NULL => 3, map { ($_ => 1) } 0 .. 7) }

sub candidate
{
	my ($d) = @_;
	return sprintf 'INSERT INTO crm.candidate VALUES (%d, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %d) ON CONFLICT DO NOTHING',
	  $d->int(42) - 2, text($d), text($d), text($d), email($d), owner($d), born($d), array($d), boolean($d), boolean($d), boolean($d), $d->int(4);
}

sub client
{
	my ($d) = @_;
	return sprintf q{INSERT INTO crm.client VALUES ('%s', %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING},
	  code($d), text($d), email($d), company($d), kind($d), boolean($d), $d->weighted(false => 10, true => 1), array($d);
}

sub candidate_change
{
	my ($d) = @_;
	return $d->of("first_name = " . text($d), "first_name = repeat('long ', 60)", "last_name = " . text($d), "initials = 'I.'", "owner_id = " . owner($d),
		"born = " . born($d), "groups = " . array($d), "mailings = " . boolean($d), "linked = " . boolean($d), "active = " . boolean($d), "active = NOT active",
		"level = " . $d->int(4), "level = (level + 1) % 4", "first_name = first_name");
}

sub client_change
{
	my ($d) = @_;
	return $d->of("name = " . text($d), "company_id = " . company($d), "kind = " . kind($d), "linked = " . boolean($d), "no_mail = " . $d->weighted(false => 4, true => 1), "interests = " . array($d));
}

# a row, or some rows of one table
sub one_of { my ($d, $kind) = @_; return $kind eq 'candidate' ? 'id = ' . ($d->int(42) - 2) : "code = '" . code($d) . "'" }
sub some
{
	my ($d, $kind) = @_;
	return one_of($d, $kind) unless $d->one_in(8);
	return $kind eq 'candidate' ? sprintf('id %% %d = %d', 5, $d->int(5)) : sprintf(q{code > '%s'}, $d->of('b', 'f'));
}

# any change of the CRM
sub change
{
	my ($d, $step) = @_;
	my $kind = $d->of('candidate', 'client');
	return $d->weighted(
		candidate($d) => 3, client($d) => 2,
		sprintf('UPDATE crm.candidate SET %s WHERE %s', candidate_change($d), some($d, 'candidate')) => 5,
		sprintf('UPDATE crm.client SET %s WHERE %s', client_change($d), some($d, 'client')) => 3,
		sprintf(q{UPDATE crm.%s SET email = 'r%d@m.test' WHERE %s}, $kind, $step, one_of($d, $kind)) => 2,
		"DELETE FROM crm.$kind WHERE " . one_of($d, $kind) => 2,
		sprintf(q{UPDATE crm.owner SET name = name || '%d' WHERE id = %d}, $d->int(10), $d->int(4)) => 1);
}

sub transaction
{
	my ($m, $d) = @_;
	my @changes = map { change($d, $m->{step}) } 0 .. 1 + $d->int(4);
	splice @changes, 1, 0, 'SAVEPOINT a' if $d->one_in(2);
	push @changes, 'ROLLBACK TO a', change($d, $m->{step}) if $changes[1] eq 'SAVEPOINT a' && $d->one_in(2);
	$m->sql(join '; ', 'BEGIN', @changes, $d->weighted(COMMIT => 3, ROLLBACK => 1));
}

# Two take each other's address, three in a circle, one takes what another gives up, in one statement or several.
sub exchange
{
	my ($m, $d) = @_;
	my ($a, $b, $c) = map { $_ - 2 } $d->int(42), $d->int(42), $d->int(42);
	my $fresh = "'r$m->{step}\@m.test'";
	my $email = sub { "(SELECT email FROM crm.candidate WHERE id = $_[0])" };
	my $code = code($d);
	$m->sql($d->of(
		"UPDATE crm.candidate SET email = CASE id WHEN $a THEN @{[ $email->($b) ]} ELSE @{[ $email->($a) ]} END WHERE id IN ($a, $b)",
		"UPDATE crm.candidate SET email = CASE id WHEN $a THEN @{[ $email->($b) ]} WHEN $b THEN @{[ $email->($c) ]} ELSE @{[ $email->($a) ]} END WHERE id IN ($a, $b, $c)",
		"BEGIN; UPDATE crm.candidate SET email = @{[ $email->($a) ]} WHERE id = $b; UPDATE crm.candidate SET email = $fresh WHERE id = $a; COMMIT",
		"BEGIN; UPDATE crm.client SET email = @{[ $email->($a) ]} WHERE code = '$code'; DELETE FROM crm.candidate WHERE id = $a; COMMIT",
		"UPDATE crm.candidate SET email = @{[ $email->($a) ]} WHERE id = $b"));
}

# ---- the group, by all ways (D12)

sub opt_out
{
	my ($m, $d) = @_;
	my $kind = $d->of('candidate', 'client');
	my ($id, $who) = ($kind eq 'candidate' ? 'id' : 'code', one_of($d, $kind));
	my $address = sprintf 'p%d@m.test', $d->int(50);
	my $both = sub { my ($call, @told) = @_; $m->sql(join '; ', 'BEGIN', $call, "SELECT model.opt_out(@told)", 'COMMIT') };
	return $both->("SELECT mc_opt_out_email(' \U$address')", "NULL, NULL, '$address'") if $d->one_in(4);
	return $both->("INSERT INTO mc_group_member (email) VALUES ('$address')", "NULL, NULL, '$address'") if $d->one_in(4);
	# who has an address now: of a row that is gone nobody can say which address is meant
	my $row = "FROM crm.$kind WHERE $who AND model.present_address('$kind', $id\::text) IS NOT NULL";
	$m->sql(join '; ', 'BEGIN', $d->one_in(2) ? "SELECT mc_opt_out('$kind', $id) $row" : "INSERT INTO mc_group_member (source, contact_key) SELECT '$kind', $id $row",
		"SELECT model.opt_out('$kind', $id\::text, model.present_address('$kind', $id\::text)) $row", 'COMMIT');
}

sub opt_in
{
	my ($m, $d) = @_;
	my $kind = $d->of('candidate', 'client');
	my ($id, $who) = ($kind eq 'candidate' ? 'id' : 'code', one_of($d, $kind));
	my $address = sprintf 'p%d@m.test', $d->int(50);
	my $ask = $d->of('true', 'false');
	if ($d->one_in(4))
	{
		$m->sql("BEGIN; SELECT mc_opt_in_email('$address', $ask); SELECT model.opt_in(NULL, NULL, '$address', $ask); COMMIT");
		return;
	}
	my $row = "FROM crm.$kind WHERE $who AND model.present_address('$kind', $id\::text) IS NOT NULL";
	$m->sql("BEGIN; SELECT mc_opt_in('$kind', $id, $ask) $row; SELECT model.opt_in('$kind', $id\::text, model.present_address('$kind', $id\::text), $ask) $row; COMMIT");
}

# ---- people at Mailchimp

sub act
{
	my ($m, $d) = @_;
	my $list = $d->of('people', 'clients', 'news');
	my $email = sprintf 'p%d@m.test', $d->int(50);
	my ($action, $more) = @{ $d->weighted(
		[ 'unsubscribe', {} ] => 4, [ 'admin_unsubscribe', {} ] => 2, [ 'abuse', {} ] => 1, [ 'clean', {} ] => 2, [ 'archive', {} ] => 2, [ 'delete_permanent', {} ] => 1,
		[ 'compliance', {} ] => 1, [ 'resubscribe', {} ] => 3, [ 'confirm', {} ] => 3,
		[ 'add', { merge_fields => { LNAME => 'theirs' }, tags => ['hand0'] } ] => 4,
		[ 'edit', { merge_fields => { LNAME => 'edited' . $d->int(3) } } ] => 3,
		[ 'tag', { tag => 'hand' . $d->int(3) } ] => 2, [ 'untag', { tag => $d->of(@tags) } ] => 1) };
	$m->act($list, $email, $action, $more);
}

# ---- faults

sub route
{
	my ($d) = @_;
	return @{ $d->weighted([ method => 'POST', path => '^/lists/[^/]+$' ] => 6, [ method => 'PATCH', path => '/members/' ] => 3, [ method => 'DELETE', path => '/members/' ] => 3,
		[ method => 'GET', path => '/members' ] => 1, [] => 1) };
}

sub fault
{
	my ($m, $d) = @_;
	my $fault = $d->of('bare_429', 'bare_403', 'html_502', 'html_504_after', 'reset_before', 'reset_after', 'cut', 'hang', 'hang_after', 'garbage',
		{ type => 'huge', bytes => 3_000_000 }, { type => 'slow', ms => 300 }, { type => 'late', ms => 500 },
		map { { type => 'status', status => $_, json => JSON::PP::true } } 400, 404, 429, 500, 503);
	# that a member is not there is no fault but a lie, which nobody could see through
	my @route = ref $fault && ($fault->{status} // 0) == 404 ? (method => 'POST', path => '^/lists/[^/]+$') : route($d);
	$m->control('faults', { @route, nth => 1 + $d->int(4), times => $d->weighted(1 => 6, 3 => 2), fault => $fault });
}

1;
